"""stack_frames: concatenates the features of the frames of a window, or their differences between frames."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from bcvlr_fast.kernels import native
from bcvlr_fast.kernels.operation import register


def stack_frames(features: Tensor, length: int, gain: float = 0.0) -> Tensor:
    """Concatenates the frame features of windows along the channels, without a gradient.

    features  [F * B, C, H, W] float32 or bfloat16: B windows of F = `length` frames, frame by frame.
    Returns [B, F * C, H, W] in the same dtype and layout, oldest frame first. If `gain` is above 0, each of the first
    F - 1 frames is replaced by the difference to the next frame, times gain.

    Raises ValueError naming the invalid argument.
    """
    if features.ndim != 4 or features.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f"features: expected float32 or bfloat16 [F * B, C, H, W], got {features.dtype} {list(features.shape)}"
        )
    if length < 1 or len(features) % length:
        raise ValueError(f"length: expected a divisor of the {len(features)} frames, got {length}")
    if not gain >= 0:
        raise ValueError(f"gain: expected at least 0, got {gain}")
    return _operation(features.detach(), length, gain)


def _cpu(features: Tensor, length: int, gain: float) -> Tensor:
    if not (native.library() and features.is_contiguous(memory_format=torch.channels_last)):
        return reference(features, length, gain)
    out = _empty(features, length)
    if out.numel():
        batch, channels, height, width = len(out), *features.shape[1:]
        native.call(
            "bcvlr_stack_frames",
            *(features, out, length, batch, height * width, channels, gain, features.dtype == torch.bfloat16),
        )
    return out


def _empty(features: Tensor, length: int, _: float = 0.0) -> Tensor:
    shape = (len(features) // length, length * features.shape[1], *features.shape[2:])
    channels_last = features.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=layout)


def reference(features: Tensor, length: int, gain: float) -> Tensor:
    """The operation in plain PyTorch."""
    groups = list(features.chunk(length))
    if gain > 0:
        changes = [(after - before) * gain for before, after in itertools.pairwise(groups)]
        groups = [*changes, groups[-1]]
    if features.is_contiguous(memory_format=torch.channels_last):  # joined along the innermost dimension
        return torch.cat([group.permute(0, 2, 3, 1) for group in groups], dim=3).permute(0, 3, 1, 2)
    return torch.cat(groups, dim=1)


_operation = register("stack_frames(Tensor features, int length, float gain) -> Tensor", _cpu, reference, _empty)
