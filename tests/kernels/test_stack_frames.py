"""Windows of features, compared with a plain loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcvlr_fast.kernels import native, reference_only, stack_frames

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def by_hand(features: Tensor, length: int, gain: float) -> Tensor:
    """The expected result, with each difference and product rounded to the dtype."""
    frames = features.view(length, -1, *features.shape[1:])  # [F, B, C, H, W]
    out = torch.empty(frames.shape[1], length, *features.shape[1:], dtype=features.dtype)
    for frame in range(length):
        last = frame == length - 1
        change = frames[frame] if last or gain == 0 else (frames[frame + 1] - frames[frame]) * gain
        out[:, frame] = change
    return out.flatten(1, 2)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3, 16, 17, 32]), st.integers(1, 20)),
    gain=st.sampled_from([0.0, 1.0, 3.3, 8.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    layout=st.sampled_from(sorted(LAYOUTS)),
    uses_reference=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_every_value(
    shape: tuple[int, ...], gain: float, dtype: torch.dtype, layout: str, uses_reference: bool, threads: int, seed: int
) -> None:
    length, batch, channels, side = shape
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    features = torch.randn(length * batch, channels, side, side).to(dtype).to(memory_format=LAYOUTS[layout])
    try:
        if uses_reference:
            with reference_only():
                actual = stack_frames(features, length, gain)
        else:
            actual = stack_frames(features, length, gain)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(actual, by_hand(features.contiguous(), length, gain))
    channels_last = features.is_contiguous(memory_format=torch.channels_last)  # with one channel both formats are
    assert actual.is_contiguous(memory_format=LAYOUTS["channels_last" if channels_last else "contiguous"])


def test_overflow_and_infinity_match_torch() -> None:
    """An overflowing change and a difference of infinities give the same values as in torch."""
    values = torch.tensor([3e38, -3e38, float("inf"), 0.0]).bfloat16().view(2, 2, 1, 1)
    features = values.to(memory_format=torch.channels_last)
    actual = stack_frames(features, 2, 8.0)
    torch.testing.assert_close(actual, by_hand(features, 2, 8.0), equal_nan=True)


def test_stack_frames_is_a_torch_operator() -> None:
    features = torch.randn(6, 4, 5, 5).to(memory_format=torch.channels_last)
    torch.library.opcheck(torch.ops.bcvlr_fast.stack_frames.default, (features, 3, 2.0))
    compiled = torch.compile(lambda x: stack_frames(x, 3, 2.0) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(features), stack_frames(features, 3, 2.0) + 1)


def test_no_gradient_flows() -> None:
    assert not stack_frames(torch.randn(4, 2, 3, 3, requires_grad=True), 2).requires_grad


@pytest.mark.parametrize(
    ("features", "length", "gain", "message"),
    [
        (torch.zeros(4, 2, 3, 3, dtype=torch.float64), 2, 0.0, "features: expected float32 or bfloat16"),
        (torch.zeros(4, 2, 3), 2, 0.0, "features: expected"),
        (torch.zeros(4, 2, 3, 3), 3, 0.0, "length: expected a divisor of the 4 frames, got 3"),
        (torch.zeros(4, 2, 3, 3), 0, 0.0, "length: expected"),
        (torch.zeros(4, 2, 3, 3), 2, float("nan"), "gain: expected at least 0"),
    ],
)
def test_wrong_arguments_are_named(features: Tensor, length: int, gain: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stack_frames(features, length, gain)


def test_the_library_is_loaded() -> None:
    """Otherwise test_every_value would compare the reference with itself."""
    assert native.library() is not None
