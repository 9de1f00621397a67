"""IMPALA's blocks in bf16, exact to the bit on integers, which bf16 sums exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcvlr_fast.kernels import conv_pool, convolution, native, reference_only, residual_block
from bcvlr_fast.kernels.convolution import _uses_cpp

needs_bf16 = pytest.mark.skipif(not native.has_bf16(), reason="no AVX512-BF16")
AUTOCAST = torch.autocast("cpu", torch.bfloat16)
# With 67 images, a part of the gradient sums has several pairs of images and a single one.
SHAPES = st.one_of(
    st.tuples(st.integers(0, 5), *[st.sampled_from([4, 8, 12, 16, 20])] * 2), st.just((67, 4, 8)), st.just((67, 8, 4))
)
CHANNELS = st.sampled_from([16, 32, 48, 64])
DRAWN = {
    "shape": SHAPES,
    "channels": CHANNELS,
    "number": st.integers(1, 3),
    "layout": st.sampled_from([torch.contiguous_format, torch.channels_last]),
    "learned": st.sampled_from(["all", "input", "parameters"]),
    "seed": st.integers(0, 1000),
}


@pytest.fixture(autouse=True, scope="module")
def without_amx() -> Iterator[None]:
    """Disables the check for AMX, with which torch would compute everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_has_amx", lambda: False)
        yield


def test_the_library_has_bf16_where_the_cpu_has_it() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert native.has_bf16() == ("avx512_bf16" in flags)


def integers(generator: torch.Generator, *shape: int, nonzero: float = 1.0) -> Tensor:
    """Random integers from -2 to 2; only a fraction `nonzero` of them may differ from 0."""
    values = torch.randint(-2, 3, shape, generator=generator).float()
    return values * (torch.rand(shape, generator=generator) < nonzero)


def images(generator: torch.Generator, batch: int, channels: int, *sides: int) -> Tensor:
    return integers(generator, batch, channels, *sides).bfloat16()


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().double()


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def leaf(tensor: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return tensor.detach().contiguous(memory_format=layout).requires_grad_()


def gradients(tensors: list[Tensor]) -> list[Tensor]:
    grads = [tensor.grad for tensor in tensors if tensor.grad is not None]
    assert len(grads) == len(tensors)
    return grads


@needs_bf16
@settings(max_examples=60, deadline=None)
@given(**DRAWN, hidden=CHANNELS)
def test_residual_block(
    shape: tuple[int, int, int],
    channels: int,
    hidden: int,
    number: int,
    layout: torch.memory_format,
    learned: str,
    seed: int,
) -> None:
    batch, *sides = shape
    generator = torch.Generator().manual_seed(seed)
    frozen = learned == "input"
    x = leaf(images(generator, batch, channels, *sides), layout).requires_grad_(learned != "parameters")
    weight0 = leaf(integers(generator, hidden, channels, 3, 3, nonzero=0.2), layout).requires_grad_(not frozen)
    weight1 = leaf(integers(generator, channels, hidden, 3, 3, nonzero=0.2), layout).requires_grad_(not frozen)
    bias0, bias1 = (integers(generator, n).requires_grad_(not frozen) for n in (hidden, channels))
    gradient = images(generator, batch, channels, *sides)
    with threads(number), AUTOCAST:
        assert _uses_cpp(x, (weight0, bias0), (weight1, bias1))
        actual = residual_block(x, weight0, bias0, weight1, bias1)
        with torch.no_grad():
            assert torch.equal(residual_block(x, weight0, bias0, weight1, bias1), actual)
    with threads(number):
        actual.backward(gradient)

    x64, dy = x.detach().double(), gradient.double()
    w0, w1 = weight0.detach().double(), weight1.detach().double()
    positive = x64.relu()
    middle = rounded(F.conv2d(positive, w0, bias0.detach().double(), padding=1).relu())
    assert torch.equal(actual.double(), rounded(F.conv2d(middle, w1, bias1.detach().double(), padding=1) + x64))
    dmiddle = rounded(torch.nn.grad.conv2d_input(middle.shape, w1, dy, padding=1) * (middle > 0))
    dx = rounded(dy + torch.nn.grad.conv2d_input(x64.shape, w0, dmiddle, padding=1) * (x64 > 0))
    if learned == "parameters":
        assert x.grad is None
    else:
        assert x.grad is not None
        assert torch.equal(x.grad.double(), dx)
    if frozen:
        assert weight0.grad is weight1.grad is bias0.grad is bias1.grad is None
        return
    expected = {
        weight0: torch.nn.grad.conv2d_weight(positive, w0.shape, dmiddle, padding=1),
        weight1: torch.nn.grad.conv2d_weight(middle, w1.shape, dy, padding=1),
        bias0: dmiddle.sum((0, 2, 3)),
        bias1: dy.sum((0, 2, 3)),
    }
    for parameter, value in expected.items():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad.double(), value)


@needs_bf16
@settings(max_examples=60, deadline=None)
@given(**{**DRAWN, "channels": st.sampled_from([16, 32, 80])}, out=CHANNELS)
def test_conv_pool(
    shape: tuple[int, int, int],
    channels: int,
    out: int,
    number: int,
    layout: torch.memory_format,
    learned: str,
    seed: int,
) -> None:
    batch, *sides = shape
    generator = torch.Generator().manual_seed(seed)
    x = leaf(images(generator, batch, channels, *sides), layout).requires_grad_(learned != "parameters")
    weight = leaf(integers(generator, out, channels, 3, 3, nonzero=0.2), layout).requires_grad_(learned != "input")
    bias = integers(generator, out).requires_grad_(learned != "input")
    gradient = images(generator, batch, out, sides[0] // 2, sides[1] // 2)
    with threads(number), AUTOCAST:
        assert _uses_cpp(x, (weight, bias))
        actual = conv_pool(x, weight, bias)
        with torch.no_grad():
            assert torch.equal(conv_pool(x, weight, bias), actual)
    with threads(number):
        actual.backward(gradient)

    x64, w64 = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    b64 = bias.detach().double().requires_grad_()
    exact = F.conv2d(x64, w64, b64, padding=1)
    values = exact + (rounded(exact) - exact).detach()  # ties among rounded values go to the first
    if batch:  # torch cannot pool an empty batch
        pooled = F.max_pool2d(values, 3, stride=2, padding=1)
        assert torch.equal(actual.double(), pooled)
        pooled.backward(gradient.double())
    for name, parameter, expected in (("parameters", x, x64), ("input", weight, w64), ("input", bias, b64)):
        if learned == name:
            assert parameter.grad is None
        elif batch:
            assert parameter.grad is not None
            assert expected.grad is not None
            assert torch.equal(parameter.grad.double(), expected.grad if parameter is not x else rounded(expected.grad))
        else:
            assert parameter.grad is not None
            assert not parameter.grad.any()


@needs_bf16
@pytest.mark.parametrize(("channels", "side"), [(16, 32), (32, 8), (64, 16)])
def test_results_are_at_least_as_exact_as_torchs(channels: int, side: int) -> None:
    """Compares the errors against float64 on numbers like those of a new network."""
    torch.manual_seed(0)
    x = torch.randn(8, channels, side, side).bfloat16()
    weights = [torch.randn(channels, channels, 3, 3) / (3 * channels**0.5) for _ in range(2)]
    biases = [torch.randn(channels) for _ in range(2)]
    gradient = torch.randn_like(x)

    def run(dtype: torch.dtype) -> list[Tensor]:
        block = [leaf(tensor.to(dtype)) for tensor in (weights[0], biases[0], weights[1], biases[1])]
        start = leaf(x.to(torch.float64 if dtype == torch.float64 else torch.bfloat16))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float64):
            end = residual_block(start, *block)
        end.backward(gradient.to(end.dtype))
        return [end.detach(), *gradients([start, *block])]

    ours, exact = run(torch.float32), run(torch.float64)
    with reference_only():
        torchs = run(torch.float32)
    for mine, theirs, expected in zip(ours, torchs, exact, strict=True):
        error, others = ((actual.double() - expected).norm() / expected.norm() for actual in (mine, theirs))
        assert error <= 1.05 * others


@needs_bf16
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_and_infinity_propagate(value: float, sign: float) -> None:
    """NaN of either sign and infinity reach the same values as in torch, forward and backward."""
    torch.manual_seed(0)
    x = torch.randn(3, 16, 8, 8).bfloat16()
    x[1, 3, 4, 5] = torch.tensor(value).copysign(torch.tensor(sign))
    weights, bias = [torch.randn(16, 16, 3, 3) / 12 for _ in range(2)], torch.randn(16)

    def run() -> list[Tensor]:
        end: list[Tensor] = []
        for operation, parameters in (
            (residual_block, (weights[0], bias, weights[1], bias)),
            (conv_pool, (weights[0], bias)),
        ):
            start = [leaf(tensor) for tensor in (x, *parameters)]
            with AUTOCAST:
                out = operation(*start)
            out.backward(torch.ones_like(out))
            end += [out.detach(), *gradients(start)]
        return end

    actual = run()
    with reference_only():
        expected = run()
    for mine, theirs in zip(actual, expected, strict=True):
        assert torch.equal(mine.isnan(), theirs.isnan())
        assert torch.equal(mine.isfinite(), theirs.isfinite())


@needs_bf16
@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7F800001])
def test_a_nan_weight_gives_nan(bits: int) -> None:
    """Any bit pattern of NaN counts: a GPU's, and those that bitwise rounding to bf16 would turn into 0 or infinity."""
    x, weight = torch.ones(1, 16, 4, 4).bfloat16(), torch.ones(16, 16, 3, 3)
    weight[3, 2, 1, 1] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    with AUTOCAST:
        actual = conv_pool(x, weight, torch.zeros(16))
    assert actual[:, 3].isnan().all()
    assert actual[:, [0, 1, 2, *range(4, 16)]].isfinite().all()


@needs_bf16
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(70, 16, 8, 8).bfloat16(), torch.randn(16)
    weights = [torch.randn(16, 16, 3, 3) for _ in range(2)]
    results = []
    for number in (1, 2, 3):
        start = [leaf(tensor) for tensor in (x, weights[0], bias, weights[1], bias)]
        with threads(number):
            with AUTOCAST:
                out = conv_pool(residual_block(*start), *start[1:3])
            out.sum().backward()
        results.append([out.detach(), *gradients(start)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_bf16
def test_unsupported_inputs_fall_back_to_torch() -> None:
    x, weight, bias = torch.zeros(2, 16, 8, 8).bfloat16(), torch.zeros(16, 16, 3, 3), torch.zeros(16)
    assert not _uses_cpp(x, (weight, bias))
    with AUTOCAST:
        assert _uses_cpp(x, (weight, bias))
        for other in (x.float(), x[:, :, :7], x[:, :, :, :6], x[:, :8], x[0], x.to("meta")):
            assert not _uses_cpp(other, (weight, bias))
        for layer in (
            (weight.bfloat16(), bias),
            (weight, bias.bfloat16()),
            (weight[:, :8], bias),
            (weight[:, :, :1, :1], bias),
            (weight, bias[:8]),
            (torch.zeros(24, 16, 3, 3), torch.zeros(24)),
            (torch.zeros(128, 16, 3, 3), torch.zeros(128)),
        ):
            assert not _uses_cpp(x, layer)
        assert not _uses_cpp(x, (weight, bias), (torch.zeros(32, 16, 3, 3), torch.zeros(32)))
        with reference_only():
            assert not _uses_cpp(x, (weight, bias))
        library = native.library()
        assert library is not None
        assert library.bcvlr_choose_isa(1) == 1
        try:
            assert not _uses_cpp(x, (weight, bias))
            with pytest.raises(RuntimeError, match="not supported here"):
                native.call("bcvlr_conv_pool", x, weight, bias, x, None, 0, 8, 8, 16, 16)
        finally:
            library.bcvlr_choose_isa(9)


def test_errors_are_those_of_torch() -> None:
    x, bias = torch.zeros(2, 16, 8, 8).bfloat16(), torch.zeros(16)
    for wrong in (torch.zeros(16, 32, 3, 3), torch.zeros(32, 16, 3, 3)):
        with AUTOCAST, pytest.raises(RuntimeError):
            conv_pool(x, wrong, bias)
        with AUTOCAST, pytest.raises(RuntimeError):
            residual_block(x, torch.zeros(16, 16, 3, 3), bias, wrong, bias)
    with pytest.raises(RuntimeError):
        conv_pool(x, torch.zeros(16, 16, 3, 3), bias)  # mixes bf16 and float32 without autocast


def test_compiled_code_uses_torch() -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(2, 16, 8, 8).bfloat16(), torch.randn(16)
    weights = [torch.randn(16, 16, 3, 3) / 12 for _ in range(2)]

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return residual_block(x, weights[0], bias, weights[1], bias), conv_pool(x, weights[0], bias)

    with AUTOCAST:
        compiled = torch.compile(both, fullgraph=True, backend="aot_eager")(x)
        with reference_only():
            expected = both(x)
    assert all(torch.equal(a, b) for a, b in zip(compiled, expected, strict=True))


@pytest.mark.parametrize("side", [5, 6, 7])
def test_other_sides(side: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 16, side, side), torch.randn(16, 16, 3, 3), torch.randn(16)
    with AUTOCAST:
        actual = conv_pool(x.bfloat16(), weight, bias)
    expected = F.max_pool2d(F.conv2d(x, weight, bias, padding=1), 3, stride=2, padding=1)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.2)
