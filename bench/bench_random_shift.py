"""Benchmark of random_shift at the paper's shapes, 512 stacks of one or three 64x64 frames.

pytest bench/bench_random_shift.py
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bcvlr_fast.kernels import random_shift
from conftest import Compare

BATCH, SIDE, PAD = 512, 64, 4
LAYOUTS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CASES = [(stack, dtype, layout) for stack in (1, 3) for dtype in DTYPES for layout in LAYOUTS]

Peer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""frames, index, offset -> the batch in float32"""


def sampled(frames: Tensor, index: Tensor, offset: Tensor, align_corners_grid: bool) -> Tensor:
    """grid_sample over the padded frames, with the half-pixel grid of BCV-LR or the grid of DrQ-v2."""
    size = SIDE + 2 * PAD
    x = frames[index].flatten(1, 2).float() / 255 - 0.5
    x = F.pad(x, (PAD,) * 4, mode="replicate")
    if align_corners_grid:  # BCV-LR: spacing 2 / (size - 1)
        line, step = torch.linspace(-1, 1, size, device=x.device)[:SIDE], 2 / (size - 1)
    else:  # DrQ-v2: pixel centers
        line, step = torch.linspace(-1 + 1 / size, 1 - 1 / size, size, device=x.device)[:SIDE], 2 / size
    base = torch.stack([line[None, :].expand(SIDE, -1), line[:, None].expand(-1, SIDE)], dim=2)
    grid = base[None] + (offset.flip(1).float() * step)[:, None, None, :]
    if align_corners_grid:  # zero padding as for pixels of 0 to 255
        return F.grid_sample(x + 0.5, grid, padding_mode="zeros", align_corners=False) - 0.5
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def unfolded(frames: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """Eager: pads, views all windows, picks one per stack."""
    picked = frames.index_select(0, index.reshape(-1)).view(len(index), -1, SIDE, SIDE)
    padded = F.pad(picked.float(), (PAD,) * 4, mode="replicate").to(torch.uint8)
    windows = padded.unfold(2, SIDE, 1).unfold(3, SIDE, 1)  # [B, C, 2 * PAD + 1, 2 * PAD + 1, SIDE, SIDE]
    chosen = windows[torch.arange(len(index), device=index.device), :, offset[:, 0], offset[:, 1]]
    return chosen.float().mul_(1 / 255).sub_(0.5)


def indexed(frames: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """A single indexing expression that a compiler can fuse."""
    line = torch.arange(SIDE, device=index.device) - PAD
    row, column = ((offset[:, i, None] + line).clamp(0, SIDE - 1) for i in (0, 1))
    plane = torch.arange(frames.shape[1], device=index.device)
    x = frames[
        index[:, :, None, None, None], plane[:, None, None], row[:, None, None, :, None], column[:, None, None, None]
    ]
    return x.flatten(1, 2).float() * (1 / 255) - 0.5


def indexed_last(frames: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """The same with channels innermost, so that a compiler writes channels last in order."""
    line = torch.arange(SIDE, device=index.device) - PAD
    row, column = ((offset[:, i, None] + line).clamp(0, SIDE - 1) for i in (0, 1))
    plane = torch.arange(frames.shape[1], device=index.device)
    x = frames[index[:, None, None, :, None], plane, row[:, :, None, None, None], column[:, None, :, None, None]]
    return (x.flatten(3).float() * (1 / 255) - 0.5).permute(0, 3, 1, 2)


def gathered(frames: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """The package's own reference."""
    reference = importlib.import_module("bcvlr_fast.kernels.random_shift").reference
    out = torch.empty(len(index), index.shape[1] * frames.shape[1], SIDE, SIDE, device=frames.device)
    reference(frames, index, offset, PAD, False, out)
    return out


def kornia_crop(frames: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    """The part of kornia's RandomCrop after its boxes are drawn."""
    crop = importlib.import_module("kornia.geometry.transform").crop_by_indices
    x = frames.index_select(0, index.reshape(-1)).view(len(index), -1, SIDE, SIDE).float() / 255 - 0.5
    top, left = offset.unbind(1)
    far = SIDE - 1
    box = torch.stack([left, top, left + far, top, left + far, top + far, left, top + far], dim=1).view(-1, 4, 2)
    return crop(F.pad(x, (PAD,) * 4, mode="replicate"), box, (SIDE, SIDE))


@numba.njit(cache=False)
def _numba_loop(frames: np.ndarray, index: np.ndarray, offset: np.ndarray, out: np.ndarray) -> None:
    batch, stack = index.shape
    channels = frames.shape[1]
    for b in range(batch):
        for s in range(stack):
            for c in range(channels):
                for y in range(SIDE):
                    line = frames[index[b, s], c, min(max(y + offset[b, 0] - PAD, 0), SIDE - 1)]
                    target = out[b, s * channels + c, y]
                    for x in range(SIDE):
                        value = np.float32(line[min(max(x + offset[b, 1] - PAD, 0), SIDE - 1)])
                        target[x] = value * np.float32(1 / 255) - np.float32(0.5)


def by_numba(frames: Tensor, index: Tensor, offset: Tensor) -> Tensor:
    out = torch.empty(len(index), index.shape[1] * frames.shape[1], SIDE, SIDE)
    _numba_loop(frames.numpy(), index.numpy(), offset.numpy(), out.numpy())
    return out


PEERS: dict[str, tuple[Peer, str]] = {
    "official (grid_sample)": (functools.partial(sampled, align_corners_grid=True), "bilinear"),
    "DrQ-v2 (grid_sample)": (functools.partial(sampled, align_corners_grid=False), "integer"),
    "eager (unfold)": (unfolded, "integer"),
    "eager (gather)": (gathered, "integer"),
    "torch.compile": (indexed, "integer"),
    "torch.compile, channels innermost": (indexed_last, "integer"),
    "kornia crop": (kornia_crop, "integer"),
    "numba (plain loop)": (by_numba, "integer"),
}


def batch(stack: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """frames, index, offset, from a store of 4,096 frames"""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (4096, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    index = torch.randint(0, len(frames), (BATCH, stack), generator=generator)
    offset = torch.randint(0, 2 * PAD + 1, (BATCH, 2), generator=generator)
    return frames.to(device), index.to(device), offset.to(device)


@pytest.mark.parametrize(("stack", "dtype", "layout"), CASES)
@pytest.mark.parametrize("peer", PEERS)
def test_random_shift(compare: Compare, device: torch.device, peer: str, stack: int, dtype: str, layout: str) -> None:
    """Runs this package in the mode of the peer, into a reused buffer, and the peer with cast and layout."""
    if peer.startswith("numba") and device.type != "cpu":
        pytest.skip("numba's loop is for the CPU")
    if peer == "kornia crop":
        pytest.importorskip("kornia")
    function, mode = PEERS[peer]
    arguments = batch(stack, device)
    target, memory_format = DTYPES[dtype], LAYOUTS[layout]
    if peer.endswith("innermost") and layout != "channels last":
        pytest.skip("written for channels last")

    def theirs() -> Tensor:
        return function(*arguments).to(target).contiguous(memory_format=memory_format)

    if peer.startswith("torch.compile"):
        theirs = torch.compile(theirs, dynamic=False)
    out = random_shift(*arguments, pad=PAD, mode=mode, dtype=target, memory_format=memory_format)
    torch.testing.assert_close(theirs(), out, rtol=0, atol=2**-8 if dtype == "bf16" else 1e-5)

    def ours() -> None:
        random_shift(*arguments, pad=PAD, mode=mode, out=out)

    moved = (out.numel() * (1 + out.element_size())) / 1e9
    compare("random_shift", f"{3 * stack} channels {dtype} {layout}", peer, ours, theirs, gigabytes=moved)


@pytest.mark.parametrize(("stack", "dtype", "layout"), CASES)
def test_official_form_replaced(compare: Compare, device: torch.device, stack: int, dtype: str, layout: str) -> None:
    """Integer crop, as in preset paper, against the official form; the frames differ slightly."""
    arguments = batch(stack, device)
    target, memory_format = DTYPES[dtype], LAYOUTS[layout]
    out = random_shift(*arguments, pad=PAD, dtype=target, memory_format=memory_format)

    def theirs() -> Tensor:
        return sampled(*arguments, align_corners_grid=True).to(target).contiguous(memory_format=memory_format)

    def ours() -> None:
        random_shift(*arguments, pad=PAD, out=out)

    compare("random_shift", f"{3 * stack} channels {dtype} {layout}", "official, by integer crop", ours, theirs)


@pytest.mark.parametrize("stack", [1, 3])
def test_copy_bandwidth(compare: Compare, device: torch.device, stack: int) -> None:
    """Compares with copying as many bytes as the shift moves, the lower bound of its time."""
    arguments = batch(stack, device)
    out = random_shift(*arguments, pad=PAD)
    moved = out.numel() * (1 + out.element_size())
    source, copy = torch.ones(2, moved // 2, dtype=torch.uint8, device=device)

    def ours() -> None:
        random_shift(*arguments, pad=PAD, out=out)

    def theirs() -> None:
        copy.copy_(source)

    compare(
        "random_shift",
        f"{3 * stack} channels fp32 channels last",
        "copy of as many bytes",
        ours,
        theirs,
        gigabytes=moved / 1e9,
    )
