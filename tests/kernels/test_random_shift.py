"""Every backend, compared with plain loops and with the official formulation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from bcvlr_fast.kernels import native, random_shift
from helpers.backends import GPU, Backend, module, on_each_backend

FORMATS = (torch.channels_last, torch.contiguous_format)


def by_loops(frames: torch.Tensor, index: torch.Tensor, offset: torch.Tensor, pad: int) -> torch.Tensor:
    batch, stack = index.shape
    _, channels, height, width = frames.shape
    out = np.empty((batch, stack * channels, height, width))
    for b in range(batch):
        for s in range(stack):
            padded = np.pad(frames[index[b, s]].numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="edge")
            y, x = offset[b].tolist()
            out[b, s * channels : (s + 1) * channels] = padded[:, y : y + height, x : x + width] / 255 - 0.5
    return torch.from_numpy(out)


def by_sampling(frames: torch.Tensor, index: torch.Tensor, offset: torch.Tensor, pad: int) -> torch.Tensor:
    """The official formulation: a grid with the spacing of align_corners=True, sampled without align_corners."""
    height, width = frames.shape[2:]
    batch, stack = index.shape
    padded = F.pad(frames[index.reshape(-1)].double(), (pad,) * 4, mode="replicate")
    y, x = (
        torch.linspace(-1, 1, size + 2 * pad, dtype=torch.float64)[:size]
        + offset[:, axis, None].double() * 2 / (size + 2 * pad - 1)
        for axis, size in enumerate((height, width))
    )
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    sampled = F.grid_sample(padded, grid.repeat_interleave(stack, 0), padding_mode="zeros", align_corners=False)
    return sampled.view(batch, -1, height, width) / 255 - 0.5


def draw(n: int, channels: int, height: int, width: int, batch: int, stack: int, pad: int, seed: int) -> tuple:
    """frames, index, offset"""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator),
        torch.randint(0, n, (batch, stack), generator=generator),
        torch.randint(0, 2 * pad + 1, (batch, 2), generator=generator),
    )


def check(backend: Backend, arguments: tuple, pad: int, mode: str, expected: torch.Tensor) -> None:
    """Checks both layouts and dtypes: float32 within 1e-6 of the range, and bf16 equal to the rounded float32."""
    arguments = tuple(a.to(backend.device) for a in arguments)
    for memory_format in FORMATS:
        actual = random_shift(*arguments, pad=pad, mode=mode, memory_format=memory_format)
        torch.testing.assert_close(
            actual.cpu().double(), expected, rtol=1e-6, atol=5e-7 if mode == "bilinear" else 6e-8
        )
        assert actual.is_contiguous(memory_format=memory_format)
        out = torch.full_like(actual, torch.nan, dtype=torch.bfloat16)
        assert random_shift(*arguments, pad=pad, mode=mode, out=out) is out
        if backend.interpreted:  # the interpreter truncates instead of rounding
            torch.testing.assert_close(out.float(), actual, rtol=2**-7, atol=0)
        else:
            assert torch.equal(out, actual.bfloat16())


@on_each_backend(
    25,
    n=st.integers(1, 6),
    channels=st.integers(1, 9),
    height=st.integers(1, 19),
    width=st.integers(1, 37),
    batch=st.integers(1, 5),
    stack=st.integers(1, 3),
    pad=st.integers(0, 9),
    mode=st.sampled_from(["integer", "bilinear"]),
    seed=st.integers(0, 10_000),
)
def test_any_shape(
    backend: Backend,
    n: int,
    channels: int,
    height: int,
    width: int,
    batch: int,
    stack: int,
    pad: int,
    mode: str,
    seed: int,
) -> None:
    arguments = draw(n, channels, height, width, batch, stack, pad, seed)
    formula = by_sampling if mode == "bilinear" and pad else by_loops
    check(backend, arguments, pad, mode, formula(*arguments, pad))


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("mode", ["integer", "bilinear"])
def test_paper_shapes(backend: Backend, stack: int, mode: str) -> None:
    """Frames, stacks and paddings of the paper in a batch of 4, or of 1 in the interpreter."""
    for pad in (1, 4):
        arguments = draw(8, 3, 64, 64, 1 if backend.interpreted else 4, stack, pad, seed=pad)
        check(backend, arguments, pad, mode, (by_sampling if mode == "bilinear" else by_loops)(*arguments, pad))


def test_every_offset(backend: Backend) -> None:
    frames, _, _ = draw(1, 2, 16, 32, 1, 1, 3, seed=0)
    offset = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    arguments = (frames, torch.zeros(len(offset), 1, dtype=torch.int64), offset)
    check(backend, arguments, 3, "integer", by_loops(*arguments, 3))
    check(backend, arguments, 3, "bilinear", by_sampling(*arguments, 3))


def test_without_offsets_it_is_a_plain_gather(backend: Backend) -> None:
    frames, index, _ = draw(5, 3, 8, 8, 2, 2, 0, seed=0)
    expected = frames[index].view(2, 6, 8, 8).double() / 255 - 0.5
    for pad in (0, 3):
        plain = random_shift(frames.to(backend.device), index.to(backend.device), pad=pad)
        torch.testing.assert_close(plain.cpu().double(), expected, rtol=1e-6, atol=6e-8)


def test_empty_batches_and_stacks(backend: Backend) -> None:
    frames, index, _ = draw(5, 3, 8, 8, 2, 2, 0, seed=0)
    assert random_shift(frames.to(backend.device), index[:0].to(backend.device)).shape == (0, 6, 8, 8)
    assert random_shift(frames.to(backend.device), index[:, :0].to(backend.device)).shape == (2, 0, 8, 8)


@pytest.mark.parametrize("mode", ["integer", "bilinear"])
def test_autocast_changes_nothing(backend: Backend, mode: str) -> None:
    arguments = tuple(a.to(backend.device) for a in draw(5, 3, 8, 8, 2, 2, 3, seed=0))
    plain = random_shift(*arguments, pad=3, mode=mode)
    with torch.autocast(backend.device.type, torch.bfloat16):
        assert torch.equal(random_shift(*arguments, pad=3, mode=mode), plain)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("mode", ["integer", "bilinear"])
def test_results_do_not_depend_on_threads_or_instruction_set(mode: str) -> None:
    library = native.library()
    if library is None:
        pytest.skip("no library")
    arguments = draw(32, 3, 64, 64, 64, 3, 4, seed=0)
    results = []
    try:
        for isa in range(library.bcvlr_choose_isa(2) + 1):
            library.bcvlr_choose_isa(isa)
            for count in (1, 2):
                torch.set_num_threads(count)
                results.append(random_shift(*arguments, pad=4, mode=mode))
    finally:
        library.bcvlr_choose_isa(2)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": torch.zeros(2, 3, 4, 4)}, r"frames: expected uint8 \[N, C, H, W\], got torch.float32"),
        ({"frames": torch.zeros(2, 3, 4, 8, dtype=torch.uint8)[..., ::2]}, "frames: expected contiguous"),
        ({"index": torch.zeros(2, dtype=torch.int64)}, r"index: expected int64 \[B, S\], got torch.int64 \[2\]"),
        ({"index": torch.zeros(2, 1, dtype=torch.int32)}, "index: expected int64"),
        ({"index": torch.zeros(2, 1, dtype=torch.int64, device="meta")}, "index: expected on cpu as frames"),
        ({"index": torch.tensor([[0], [2]])}, r"index: expected 0 to 1, got 2 at \[1, 0\] of \[2, 1\]"),
        ({"index": torch.tensor([[-1], [0]])}, r"index: expected 0 to 1, got -1 at \[0, 0\] of \[2, 1\]"),
        (
            {"offset": torch.zeros(3, 2, dtype=torch.int64)},
            r"offset: expected int64 \[2, 2\], got torch.int64 \[3, 2\]",
        ),
        ({"offset": torch.tensor([[0, 0], [0, 3]])}, r"offset: expected 0 to 2, got 3 at \[1, 1\] of \[2, 2\]"),
        ({"pad": -1}, "pad: expected 0 to 65536, got -1"),
        ({"frames": torch.zeros(2, 3, 0, 4, dtype=torch.uint8)}, r"frames: expected pixels, got \[2, 3, 0, 4\]"),
        ({"mode": "cubic"}, "mode: expected integer or bilinear, got 'cubic'"),
        ({"dtype": torch.float16}, "dtype: expected float32 or bfloat16, got torch.float16"),
        ({"out": torch.empty(2, 3, 4, 5)}, r"out: expected float32 or bfloat16 \[2, 3, 4, 4\] on cpu"),
        ({"out": torch.empty(2, 3, 4, 8)[..., ::2]}, "out: expected contiguous or channels last"),
    ],
)
@pytest.mark.parametrize("name", ["reference", "cpp"])
def test_wrong_arguments_are_named(change: dict, message: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_reference_only", name == "reference")
    arguments = {
        "frames": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "index": torch.zeros(2, 1, dtype=torch.int64),
        "offset": None,
        "pad": 1,
        "mode": "integer",
        **change,
    }
    frames, index, offset = (arguments.pop(k) for k in ("frames", "index", "offset"))
    with pytest.raises(ValueError, match=message):
        random_shift(frames, index, offset, **arguments)


def test_out_of_range_is_nan_on_a_gpu() -> None:
    """On a GPU the host cannot check indices, so the kernel writes NaN. Runs in the interpreter without a GPU."""
    pytest.importorskip("triton", minversion="3.6")
    launch = module("random_shift_triton").random_shift
    device = torch.device("cuda" if GPU else "cpu")
    frames, index, offset = (a.to(device) for a in draw(4, 3, 8, 8, 5, 2, 2, seed=0))
    index[1, 1], index[2, 0], offset[3, 0], offset[4, 1] = 4, -1, 5, -1
    for memory_format in FORMATS:
        out = torch.empty(5, 6, 8, 8, device=device).to(memory_format=memory_format)
        launch(frames, index, offset, 2, False, out)
        wrong = out.isnan().flatten(2).all(2).cpu()  # [5, 6]
        assert wrong.tolist() == [
            [False] * 6,
            [False] * 3 + [True] * 3,
            [True] * 3 + [False] * 3,
            [True] * 6,
            [True] * 6,
        ]
        assert out.isnan().sum() == wrong.sum() * 64
