"""random_shift: gather, stack, shift and normalise frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_shift(
    frames: Tensor,
    index: Tensor,
    offset: Tensor | None = None,
    *,
    pad: int = 0,
    mode: str = "integer",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Batch of shifted frame stacks, `x / 255 - 0.5`.

    frames  [N, C, H, W] uint8: the store.
    index   [B, S] int64, 0 <= index < N: the S frames of each stack, all shifted alike.
    offset  [B, 2] int64, 0 <= offset <= 2 * pad: (row, column) of the crop; None centres it.
    Returns [B, S * C, H, W] in `dtype`, channels last in memory.

    `integer` crops from the frame padded by `pad` with its own border (DrQ-v2, exact shift).
    `bilinear` samples at `(i + offset) * P / (P - 1) - 1/2`, P = H + 2 * pad, zero outside the
    padded frame: the half-pixel blend of the official BCV-LR code.
    Raises ValueError naming the argument that is wrong.
    """
    _check(frames, index, offset, pad, mode)
    batch, stack = index.shape
    _, channels, height, width = frames.shape
    picked = frames.index_select(0, index.reshape(-1))  # [B*S, C, H, W] uint8
    if pad:
        if offset is None:
            offset = torch.full((batch, 2), pad, dtype=torch.int64, device=frames.device)
        rows, columns = offset.repeat_interleave(stack, dim=0).unbind(1)
        picked = (_crop if mode == "integer" else _blend)(picked, rows, columns, pad)
    shifted = picked.view(batch, stack * channels, height, width).to(memory_format=torch.channels_last)
    return shifted.to(torch.float32).mul_(1 / 255).sub_(0.5).to(dtype)


def _crop(picked: Tensor, rows: Tensor, columns: Tensor, pad: int) -> Tensor:
    count, channels, height, width = picked.shape
    device = picked.device
    row = (rows[:, None] + torch.arange(height, device=device) - pad).clamp_(0, height - 1)
    column = (columns[:, None] + torch.arange(width, device=device) - pad).clamp_(0, width - 1)
    pixel = (row[:, :, None] * width + column[:, None, :]).view(count, 1, height * width)
    flat = picked.view(count, channels, height * width)
    return flat.gather(2, pixel.expand(-1, channels, -1)).view_as(picked)


def _blend(picked: Tensor, rows: Tensor, columns: Tensor, pad: int) -> Tensor:
    height, width = picked.shape[2:]
    padded = F.pad(picked.float(), (pad,) * 4, mode="replicate")
    row_weight = _tap_weights(rows, height, height + 2 * pad)  # [n, H, P]
    column_weight = _tap_weights(columns, width, width + 2 * pad)
    return torch.einsum("nip,ncpq,njq->ncij", row_weight, padded, column_weight).contiguous()


def _tap_weights(offset: Tensor, size: int, padded: int) -> Tensor:
    """[n, size, padded]: linear interpolation weights at the official sampling points."""
    point = (offset[:, None] + torch.arange(size, device=offset.device)) * (padded / (padded - 1)) - 0.5
    tap = torch.arange(padded, device=offset.device)
    return (1 - (point[:, :, None] - tap).abs()).clamp_(min=0)


def _check(frames: Tensor, index: Tensor, offset: Tensor | None, pad: int, mode: str) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 4:
        raise ValueError(f"frames: expected uint8 [N, C, H, W], got {frames.dtype} {list(frames.shape)}")
    if index.dtype != torch.int64 or index.ndim != 2:
        raise ValueError(f"index: expected int64 [B, S], got {index.dtype} {list(index.shape)}")
    if mode not in ("integer", "bilinear"):
        raise ValueError(f"mode: expected integer or bilinear, got '{mode}'")
    if pad < 0:
        raise ValueError(f"pad: expected >= 0, got {pad}")
    if offset is not None and (offset.dtype != torch.int64 or offset.shape != (index.shape[0], 2)):
        raise ValueError(f"offset: expected int64 [{index.shape[0]}, 2], got {offset.dtype} {list(offset.shape)}")
