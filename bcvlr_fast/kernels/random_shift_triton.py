"""random_shift on a GPU: one launch; each program computes one tile of the output of a stack."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# With clamped columns, the compiler finds no contiguous dimension in a tile. Neighboring threads then run along the
# first dimension before Triton 3.7 and along the last since then; they must run along columns.
COLUMNS_FIRST = tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7)
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}  # rounds after each operation, as the reference does


@triton.jit
def random_shift_kernel(
    p_frames,  # [N, C, H, W] uint8
    p_index,  # [B, S] int64
    p_offset,  # [B, 2] int64, unused without SHIFTED
    p_out,  # [B, S * C, H, W] in its own layout
    N,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    S: tl.constexpr,
    PAD: tl.constexpr,
    SHIFTED: tl.constexpr,
    BILINEAR: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COLUMNS_FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The output of a stack as a matrix: H rows of W * S * C for channels last, S * C * H rows of W otherwise.

    Values that depend on a row or column alone are computed once, so each element needs only one
    address addition. Tiles are [COLUMNS, ROWS] if COLUMNS_FIRST, else [ROWS, COLUMNS].
    """
    LINES: tl.constexpr = H if CHANNELS_LAST else S * C * H
    LENGTH: tl.constexpr = W * S * C if CHANNELS_LAST else W
    i_stack = tl.program_id(0).to(tl.int64)
    o_row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    o_column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    y = o_row if CHANNELS_LAST else o_row % H
    x = o_column // (S * C) if CHANNELS_LAST else o_column
    plane = o_column % (S * C) if CHANNELS_LAST else o_row // H

    y0 = tl.zeros((), tl.int64) + PAD
    x0 = tl.zeros((), tl.int64) + PAD
    valid = plane < S * C
    if SHIFTED:
        y0 = tl.load(p_offset + 2 * i_stack)
        x0 = tl.load(p_offset + 2 * i_stack + 1)
        valid = valid & (y0 >= 0) & (y0 <= 2 * PAD) & (x0 >= 0) & (x0 <= 2 * PAD)
    frame = tl.zeros_like(plane).to(tl.int64)
    for s in tl.static_range(S):
        frame = tl.where(plane // C == s, tl.load(p_index + i_stack * S + s), frame)
    valid = valid & (frame >= 0) & (frame < N)
    p_plane = p_frames + (tl.where(valid, frame, 0) * C + plane % C) * (H * W)
    scale = tl.where(valid, 1.0 / 255.0, float("nan"))
    y0 = y0.to(tl.int32)
    x0 = x0.to(tl.int32)

    if BILINEAR:
        y1, y2, a1, a2 = _taps(y + y0, H, PAD)
        x1, x2, b1, b2 = _taps(x + x0, W, PAD)
        upper = _across(b1, COLUMNS_FIRST) * _pixels(p_plane, y1, x1, W, CHANNELS_LAST, COLUMNS_FIRST)
        upper += _across(b2, COLUMNS_FIRST) * _pixels(p_plane, y1, x2, W, CHANNELS_LAST, COLUMNS_FIRST)
        lower = _across(b1, COLUMNS_FIRST) * _pixels(p_plane, y2, x1, W, CHANNELS_LAST, COLUMNS_FIRST)
        lower += _across(b2, COLUMNS_FIRST) * _pixels(p_plane, y2, x2, W, CHANNELS_LAST, COLUMNS_FIRST)
        pixel = _down(a1, COLUMNS_FIRST) * upper + _down(a2, COLUMNS_FIRST) * lower
    else:
        row = tl.minimum(tl.maximum(y + y0 - PAD, 0), H - 1)
        column = tl.minimum(tl.maximum(x + x0 - PAD, 0), W - 1)
        pixel = _pixels(p_plane, row, column, W, CHANNELS_LAST, COLUMNS_FIRST)
    value = pixel * (_across(scale, COLUMNS_FIRST) if CHANNELS_LAST else _down(scale, COLUMNS_FIRST)) - 0.5

    p_tile = (
        p_out + i_stack * (LINES * LENGTH) + _down(o_row * LENGTH, COLUMNS_FIRST) + _across(o_column, COLUMNS_FIRST)
    )
    if LINES % ROWS == 0 and LENGTH % COLUMNS == 0:
        tl.store(p_tile, value.to(p_out.dtype.element_ty))
    else:
        mask = _down(o_row < LINES, COLUMNS_FIRST) & _across(o_column < LENGTH, COLUMNS_FIRST)
        tl.store(p_tile, value.to(p_out.dtype.element_ty), mask=mask)


@triton.jit
def _across(column, COLUMNS_FIRST: tl.constexpr):
    """Broadcasts [COLUMNS] over the rows of a tile."""
    return column[:, None] if COLUMNS_FIRST else column[None, :]


@triton.jit
def _down(row, COLUMNS_FIRST: tl.constexpr):
    """Broadcasts [ROWS] over the columns of a tile."""
    return row[None, :] if COLUMNS_FIRST else row[:, None]


@triton.jit
def _pixels(p_plane, row, column, W: tl.constexpr, CHANNELS_LAST: tl.constexpr, COLUMNS_FIRST: tl.constexpr):
    """Loads a tile as float32; rows and columns are clamped, so no load leaves the plane."""
    if CHANNELS_LAST:
        p_pixel = _across(p_plane + column, COLUMNS_FIRST) + _down(row * W, COLUMNS_FIRST)
    else:
        p_pixel = _down(p_plane + row * W, COLUMNS_FIRST) + _across(column, COLUMNS_FIRST)
    return tl.load(p_pixel).to(tl.float32)


@triton.jit
def _taps(q, SIZE: tl.constexpr, PAD: tl.constexpr):
    """The two pixels, clamped to the frame, and their weights at q * P / (P - 1) - 1/2 of a line of P pixels."""
    P: tl.constexpr = SIZE + 2 * PAD
    beyond = q.to(tl.float32) * (1.0 / (P - 1)) - 0.5  # relative to q: more exact than the point itself
    first = q - (beyond < 0).to(tl.int32)
    second_weight = tl.where(beyond < 0, beyond + 1, beyond)
    first_weight = tl.where(first >= 0, 1 - second_weight, 0.0)
    second_weight = tl.where(first + 1 < P, second_weight, 0.0)
    one = tl.minimum(tl.maximum(first - PAD, 0), SIZE - 1)
    two = tl.minimum(tl.maximum(first + 1 - PAD, 0), SIZE - 1)
    return one, two, first_weight, second_weight


def random_shift(frames: Tensor, index: Tensor, offset: Tensor | None, pad: int, bilinear: bool, out: Tensor) -> None:
    """Launches the kernel; `kernels.random_shift` has checked the arguments."""
    count, channels, height, width = frames.shape
    batch, stack = index.shape
    channels_last = not out.is_contiguous()
    planes = stack * channels
    lines, length = (height, width * planes) if channels_last else (planes * height, width)
    blended = bilinear and pad > 0
    block = tile(lines, length, blended)
    grid = (batch, triton.cdiv(lines, block["ROWS"]), triton.cdiv(length, block["COLUMNS"]))
    random_shift_kernel[grid](
        *(frames, index, index if offset is None else offset, out, count),
        *(channels, height, width, stack, pad),
        SHIFTED=offset is not None,
        BILINEAR=blended,
        CHANNELS_LAST=channels_last,
        COLUMNS_FIRST=COLUMNS_FIRST,
        **block,
        **OPTIONS,
    )


def tile(lines: int, length: int, blended: bool) -> dict[str, int]:
    """Tile of one program for an output of `lines` rows of `length`; smaller if blended, with four loads per pixel."""
    rows = min(32 if blended else 64, triton.next_power_of_2(lines))
    return {"ROWS": rows, "COLUMNS": min(64, triton.next_power_of_2(length))}
