"""random_shift: gathers, stacks, shifts and normalizes frames in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bcvlr_fast.kernels import native
from bcvlr_fast.kernels.operation import changed, register, triton

_DTYPES = (torch.float32, torch.bfloat16)
_MAX_PAD = 1 << 16


def random_shift(
    frames: Tensor,
    index: Tensor,
    offset: Tensor | None = None,
    *,
    pad: int = 0,
    mode: str = "integer",
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
    out: Tensor | None = None,
) -> Tensor:
    """Returns a batch of shifted frame stacks, normalized to `x / 255 - 0.5`.

    frames  [N, C, H, W] uint8, contiguous: all stored frames.
    index   [B, S] int64, 0 <= index < N: the S frames of each stack, which share one shift.
    offset  [B, 2] int64, 0 <= offset <= 2 * pad: (row, column) of the crop; None centers it.
    Returns [B, S * C, H, W] in `dtype` (float32 or bfloat16) and `memory_format` (channels_last or
    contiguous_format). If `out` is given, fills and returns it, in its own dtype and layout.

    `integer` crops from the frame padded by `pad` with its own border (DrQ-v2, exact shift).
    `bilinear` samples at `(i + offset) * P / (P - 1) - 1/2`, P = H + 2 * pad, zero outside the
    padded frame: the half-pixel blend of the official BCV-LR code. Without padding, both modes only
    gather frames.

    Raises ValueError naming the invalid argument. On a GPU, where checking values would synchronize,
    a stack whose index or offset is out of range is filled with NaN.
    """
    _check(frames, index, offset, pad, mode)
    shape = (index.shape[0], index.shape[1] * frames.shape[1], *frames.shape[2:])
    if out is None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype: expected float32 or bfloat16, got {dtype}")
        out = torch.empty(shape, dtype=dtype, device=frames.device, memory_format=memory_format)
    elif out.shape != shape or out.dtype not in _DTYPES or out.device != frames.device:
        raise ValueError(
            f"out: expected float32 or bfloat16 {list(shape)} on {frames.device}, "
            f"got {out.dtype} {list(out.shape)} on {out.device}"
        )
    elif not (out.is_contiguous() or out.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"out: expected contiguous or channels last, got strides {list(out.stride())}")
    if out.numel():
        offset = None if offset is None else offset.contiguous()
        _operation(frames, index.contiguous(), offset, pad, mode == "bilinear", out)
        changed(out)
    return out


def _cpu(frames: Tensor, index: Tensor, offset: Tensor | None, pad: int, bilinear: bool, out: Tensor) -> None:
    _check_values("index", index, len(frames) - 1)
    if offset is not None:
        _check_values("offset", offset, 2 * pad)
    (_cpp if native.library() else reference)(frames, index, offset, pad, bilinear, out)


def _cpp(frames: Tensor, index: Tensor, offset: Tensor | None, pad: int, bilinear: bool, out: Tensor) -> None:
    count, channels, height, width = frames.shape
    batch, stack = index.shape
    native.call(
        "bcvlr_random_shift",
        *(frames, index, offset, out),
        *(count, channels, height, width, batch, stack, pad),
        *(bilinear, out.dtype == torch.bfloat16, not out.is_contiguous()),
    )


_operation = register(
    "random_shift(Tensor frames, Tensor index, Tensor? offset, int pad, bool bilinear, Tensor(a!) out) -> ()",
    _cpu,
    triton("random_shift"),
    lambda *_: None,
)


def reference(frames: Tensor, index: Tensor, offset: Tensor | None, pad: int, bilinear: bool, out: Tensor) -> None:
    """The operation in plain PyTorch; fills `out`."""
    batch, stack = index.shape
    picked = frames.index_select(0, index.reshape(-1))  # [B*S, C, H, W] uint8
    if pad:
        if offset is None:
            offset = torch.full((batch, 2), pad, dtype=torch.int64, device=frames.device)
        rows, columns = offset.repeat_interleave(stack, dim=0).unbind(1)
        picked = (_blend if bilinear else _crop)(picked, rows, columns, pad)
    layout = torch.contiguous_format if out.is_contiguous() else torch.channels_last
    shifted = picked.view(out.shape).to(memory_format=layout)
    out.copy_(shifted.to(torch.float32).mul_(1 / 255).sub_(0.5))


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
    with torch.autocast(picked.device.type, enabled=False):
        return torch.einsum("nip,ncpq,njq->ncij", row_weight, padded, column_weight).contiguous()


def _tap_weights(offset: Tensor, size: int, padded: int) -> Tensor:
    """Linear interpolation weights [n, size, padded] at the official sampling points."""
    whole = offset[:, None] + torch.arange(size, device=offset.device)
    point = whole.double() * (padded / (padded - 1)) - 0.5
    tap = torch.arange(padded, device=offset.device)
    return (1 - (point[:, :, None] - tap).abs()).clamp_(min=0).float()


def _check(frames: Tensor, index: Tensor, offset: Tensor | None, pad: int, mode: str) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 4:
        raise ValueError(f"frames: expected uint8 [N, C, H, W], got {frames.dtype} {list(frames.shape)}")
    if 0 in frames.shape[1:]:
        raise ValueError(f"frames: expected pixels, got {list(frames.shape)}")
    if not frames.is_contiguous():
        raise ValueError(f"frames: expected contiguous {list(frames.shape)}, got strides {list(frames.stride())}")
    if index.dtype != torch.int64 or index.ndim != 2:
        raise ValueError(f"index: expected int64 [B, S], got {index.dtype} {list(index.shape)}")
    if index.device != frames.device:
        raise ValueError(f"index: expected on {frames.device} as frames, got {list(index.shape)} on {index.device}")
    if mode not in ("integer", "bilinear"):
        raise ValueError(f"mode: expected integer or bilinear, got '{mode}'")
    if not 0 <= pad <= _MAX_PAD:
        raise ValueError(f"pad: expected 0 to {_MAX_PAD}, got {pad}")
    if offset is None:
        return
    if offset.dtype != torch.int64 or offset.shape != (index.shape[0], 2):
        raise ValueError(f"offset: expected int64 [{index.shape[0]}, 2], got {offset.dtype} {list(offset.shape)}")
    if offset.device != frames.device:
        raise ValueError(f"offset: expected on {frames.device} as frames, got {list(offset.shape)} on {offset.device}")


def _check_values(name: str, values: Tensor, last: int) -> None:
    library = native.library()
    if library:
        first = library.bcvlr_first_outside(values.data_ptr(), values.numel(), last)
    else:
        outside = ((values < 0) | (values > last)).reshape(-1).nonzero()
        first = int(outside[0]) if len(outside) else values.numel()
    if first < values.numel():
        position = [int(i) for i in torch.unravel_index(torch.tensor(first), values.shape)]
        value = int(values.reshape(-1)[first])
        raise ValueError(f"{name}: expected 0 to {last}, got {value} at {position} of {list(values.shape)}")
