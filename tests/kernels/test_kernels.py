"""The operations as torch operators, and the library with and without its file."""

import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bcvlr_fast.kernels import describe, native, nearest_code, random_shift, sinkhorn, sinkhorn_cross_entropy
from helpers.backends import Backend, module

CPU = torch.device("cpu")


def inputs(device: torch.device = CPU) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1).to(device)

    return {
        "frames": torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=generator).to(device),
        "index": torch.randint(0, 6, (4, 2), generator=generator).to(device),
        "offset": torch.randint(0, 5, (4, 2), generator=generator).to(device),
        "z": uniform(4, 24),
        "codes": uniform(2, 5, 3),
        "count": uniform(2, 5).abs(),
        "sum": uniform(2, 5, 3),
        "scores": uniform(6, 5),
        "logits": uniform(6, 5),
    }


def test_opcheck(backend: Backend) -> None:
    """Checks schemas, fake tensors and tracing with dynamic shapes."""
    if backend.interpreted:
        pytest.skip("torch does not dispatch to the interpreter")
    x = inputs(backend.device)
    out = torch.empty(4, 6, 8, 8, device=backend.device)
    operations = torch.ops.bcvlr_fast
    for operation, arguments in (
        (operations.random_shift, (x["frames"], x["index"], x["offset"], 2, False, out)),
        (operations.random_shift, (x["frames"], x["index"], None, 0, True, out)),
        (operations.nearest_code, (x["z"], x["codes"])),
        (operations.nearest_code_update, (x["z"], x["codes"], x["count"], x["sum"], 0.9, 0.1)),
        (operations.nearest_code_backward, (x["z"], x["z"] + 1, x["z"] - 1, x["logits"][0, 0])),
        (operations.sinkhorn, (x["scores"], 0.1, 3)),
        (operations.sinkhorn_cross_entropy, (x["logits"], x["scores"], 0.1, 3)),
    ):
        torch.library.opcheck(operation.default, arguments)


def everything(x: dict[str, Tensor]) -> tuple[Tensor, ...]:
    shifted = random_shift(x["frames"], x["index"], x["offset"], pad=2)
    code = nearest_code(x["z"], x["codes"], x["count"], x["sum"], decay=0.9)
    loss = sinkhorn_cross_entropy(x["logits"], x["scores"])
    total = shifted.mean() + (code.quantized * x["z"].detach()).sum() + code.commitment + loss
    return total, shifted, *code, sinkhorn(x["scores"]), x["codes"], x["count"], x["sum"]


def test_compile(backend: Backend) -> None:
    """Full graphs, gradients and in-place updates equal those of the eager call."""
    if backend.interpreted:
        pytest.skip("torch does not dispatch to the interpreter")
    results, gradients = [], []
    for run in (everything, torch.compile(everything, fullgraph=True, backend="aot_eager")):
        x = inputs(backend.device)
        leaves = [x[name].requires_grad_() for name in ("z", "logits")]
        outputs = run(x)
        gradients.append(torch.autograd.grad(outputs[0], leaves))
        results.append(outputs)
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_overwriting_a_saved_output_is_detected() -> None:
    """Autograd raises an error if a buffer that a graph needs has been overwritten."""
    x = inputs()
    out = random_shift(x["frames"], x["index"])
    weight = torch.ones_like(out, requires_grad=True)
    loss = (weight * out).sum()
    random_shift(x["frames"], x["index"], out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_mode() -> None:
    with torch.inference_mode():
        x = inputs()
        everything(x)
        random_shift(x["frames"], x["index"], out=torch.empty(4, 6, 8, 8))


@pytest.mark.usefixtures("threads")
def test_threads_after_a_fork() -> None:
    """A forked child has none of the pool's threads and must not wait for them."""
    torch.set_num_threads(2)
    x = inputs()
    frames, index = x["frames"], x["index"].repeat(5000, 1)
    expected = random_shift(frames, index)

    def child() -> None:
        actual = random_shift(frames, index)
        torch.set_num_threads(1)  # torch's own threads do not survive a fork
        os._exit(0 if torch.equal(actual, expected) else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    alive = process.is_alive()
    process.kill()
    assert not alive
    assert process.exitcode == 0


@pytest.mark.usefixtures("threads")
def test_callers_in_several_threads() -> None:
    """One caller gets the thread pool, the others compute alone, and all get the same result."""
    torch.set_num_threads(2)
    x = inputs()
    frames, index = x["frames"], x["index"].repeat(2000, 1)
    expected = random_shift(frames, index)
    with ThreadPoolExecutor(4) as callers:
        results = list(callers.map(lambda _: random_shift(frames, index), range(40)))
    assert all(torch.equal(result, expected) for result in results)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_importing_does_not_import_triton() -> None:
    done = python("import sys, bcvlr_fast.kernels, bcvlr_fast.train; print('triton' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


USE = """
import torch
from bcvlr_fast.kernels import describe, random_shift
print(describe(torch.device("cpu")))
print(random_shift(torch.full((2, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([[1]])).flatten().tolist())
"""


def test_without_the_library_one_line_says_so(tmp_path: Path) -> None:
    done = python(USE, BCVLR_FAST_LIBRARY=str(tmp_path / "absent.so"))
    assert done.stdout.splitlines() == ["PyTorch (no compiled library)", "[0.5, 0.5, 0.5, 0.5]"]
    assert len(re.findall("C\\+\\+ kernels: not built; using PyTorch", done.stderr)) == 1, done.stderr
    asked = python(USE, BCVLR_FAST_LIBRARY="none")
    assert asked.stdout == done.stdout
    assert asked.stderr == ""


def test_a_file_that_is_not_a_library(tmp_path: Path) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"\x7fELF but no more")
    done = python(USE, BCVLR_FAST_LIBRARY=str(path))
    assert done.stdout.splitlines()[0] == "PyTorch (no compiled library)"
    assert str(path) in done.stderr


def test_a_library_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip("no library")
    monkeypatch.setattr(native, "_VERSION", -1)
    with pytest.warns(RuntimeWarning, match=r"expected version -1, got \d+; using PyTorch"):
        assert native._load.__wrapped__() is None


def test_describe() -> None:
    assert describe(torch.device("cuda")) == "Triton"
    with module("native").reference_only():
        assert describe(CPU) == "PyTorch (no compiled library)"
    if native.library():
        assert re.fullmatch(r"C\+\+ \((baseline|AVX2|AVX-512)\)", describe(CPU))
