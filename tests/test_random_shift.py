"""pytest tests/test_random_shift.py: the reference against loops and against the official formulation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bcvlr_fast.kernels import random_shift


def by_loops(frames: np.ndarray, index: np.ndarray, offset: np.ndarray, pad: int) -> np.ndarray:
    batch, stack = index.shape
    _, channels, height, width = frames.shape
    out = np.empty((batch, stack * channels, height, width), np.float32)
    for b in range(batch):
        for s in range(stack):
            padded = np.pad(frames[index[b, s]], ((0, 0), (pad, pad), (pad, pad)), mode="edge")
            y, x = offset[b]
            crop = padded[:, y : y + height, x : x + width]
            out[b, s * channels : (s + 1) * channels] = crop.astype(np.float32) / 255 - 0.5
    return out


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 6),
    channels=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    batch=st.integers(1, 5),
    stack=st.integers(1, 3),
    pad=st.integers(0, 4),
    seed=st.integers(0, 10_000),
)
def test_integer_crop(
    n: int, channels: int, height: int, width: int, batch: int, stack: int, pad: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8)
    index = rng.integers(0, n, (batch, stack))
    offset = rng.integers(0, 2 * pad + 1, (batch, 2))
    found = random_shift(torch.from_numpy(frames), torch.from_numpy(index), torch.from_numpy(offset), pad=pad)
    np.testing.assert_allclose(found.numpy(), by_loops(frames, index, offset, pad), rtol=0, atol=1e-7)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_no_offset_is_the_plain_gather() -> None:
    frames = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    index = torch.tensor([[4, 0], [2, 2]])
    plain = random_shift(frames, index)
    torch.testing.assert_close(plain, frames[index].view(2, 6, 8, 8) / 255 - 0.5, rtol=0, atol=1e-7)
    torch.testing.assert_close(random_shift(frames, index, pad=3), plain)


@pytest.mark.parametrize("pad", [1, 4])
def test_bilinear_is_the_official_blend(pad: int) -> None:
    """The official op builds its grid with align_corners=True's spacing and samples without it."""
    side, batch = 16, 4
    frames = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    offset = torch.randint(0, 2 * pad + 1, (batch, 2))
    padded = F.pad(frames.float(), (pad,) * 4, mode="replicate")
    size = side + 2 * pad
    line = torch.linspace(-1, 1, size, dtype=torch.float64)[:side]
    base = torch.stack([line[None, :].expand(side, -1), line[:, None].expand(-1, side)], dim=2)  # (x, y)
    shift = offset.flip(1).double() * 2 / (size - 1)
    sampled = F.grid_sample(padded.double(), base + shift[:, None, None, :], padding_mode="zeros", align_corners=False)
    found = random_shift(frames, torch.arange(batch)[:, None], offset, pad=pad, mode="bilinear")
    torch.testing.assert_close(found.double(), sampled / 255 - 0.5, rtol=0, atol=1e-5)


def test_bf16_is_rounded_fp32() -> None:
    frames = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    index = torch.arange(4)[:, None]
    assert torch.equal(random_shift(frames, index, dtype=torch.bfloat16), random_shift(frames, index).bfloat16())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": torch.zeros(2, 3, 4, 4)}, "frames: expected uint8"),
        ({"index": torch.zeros(2, dtype=torch.int64)}, "index: expected int64"),
        ({"index": torch.zeros(2, 1, dtype=torch.int32)}, "index: expected int64"),
        ({"offset": torch.zeros(3, 2, dtype=torch.int64)}, r"offset: expected int64 \[2, 2\]"),
        ({"pad": -1}, "pad: expected >= 0"),
        ({"mode": "cubic"}, "mode: expected"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
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
