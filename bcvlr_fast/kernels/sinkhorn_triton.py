"""sinkhorn on a GPU: one launch per iteration (two for many samples) and one for the result.

Each launch recomputes K = exp(scores / T), which is cheaper than storing it. A launch splits the rows into blocks,
which store their column sums; the next launch adds those of all blocks in a fixed order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from bcvlr_fast.kernels.parts_triton import add_parts

_ELEMENTS = 8192  # per tile
_MAX_PARTS = 64  # maximum number of column sums that each program of the next launch adds
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}
ADD_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
ADD_COLUMNS = 128


@triton.jit
def sinkhorn_scale_kernel(
    p_scores,  # [B, M]
    p_parts,  # [parts, M] column sums of the previous iteration, unused when FIRST
    p_out,  # [programs, M] column sums of this iteration
    parts,
    B,
    high,
    low,
    M: tl.constexpr,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One iteration: u = 1 / (K v), and the column sums of K u over a block of rows."""
    o_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    u = tl.full([ROWS], 1.0, tl.float32)
    if not FIRST:
        total = tl.zeros([ROWS], tl.float32)
        for start in range(0, M, COLUMNS):
            o_column = start + tl.arange(0, COLUMNS)
            v = _column_scaling(p_parts, parts, start, B, M, COLUMNS)
            total += tl.sum(_exponential(p_scores, o_row, o_column, B, M, high, low) * v[None, :], axis=1)
        u = 1 / total
    u = tl.where(o_row < B, u, 0.0)
    for start in range(0, M, COLUMNS):
        o_column = start + tl.arange(0, COLUMNS)
        b_k = _exponential(p_scores, o_row, o_column, B, M, high, low)
        tl.store(p_out + tl.program_id(0) * M + o_column, tl.sum(b_k * u[:, None], axis=0), mask=o_column < M)


@triton.jit
def sinkhorn_add_kernel(p_parts, p_out, parts, M: tl.constexpr, COLUMNS: tl.constexpr):
    """Adds [parts, M] to [1, M] if there are too many parts for each program to add."""
    o_column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = o_column < M
    tl.store(p_out + o_column, add_parts(p_parts, parts, M, o_column, inside, COLUMNS, 64), mask=inside)


@triton.jit
def sinkhorn_result_kernel(
    p_scores,  # [B, M]
    p_logits,  # [B, M], unused without LOSS
    p_parts,  # [parts, M]
    p_out,  # [B, M]: targets, or the gradient of the loss with respect to the logits
    p_loss,  # []; this and the next two are unused without LOSS
    p_losses,  # [programs] scratch
    p_arrivals,  # [1] int32, zero
    parts,
    B,
    high,
    low,
    temperature,
    M: tl.constexpr,
    LOSS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Computes the targets u K v, or the cross-entropy against them and its gradient."""
    o_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    target_sum = tl.zeros([ROWS], tl.float32)
    exponential_sum = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS], tl.float32)
    v = _column_scaling(p_parts, parts, 0, B, M, COLUMNS)
    for start in range(0, M, COLUMNS):
        o_column = start + tl.arange(0, COLUMNS)
        if M > COLUMNS:
            v = _column_scaling(p_parts, parts, start, B, M, COLUMNS)
        b_target = _exponential(p_scores, o_row, o_column, B, M, high, low) * v[None, :]
        target_sum += tl.sum(b_target, axis=1)
        if LOSS:
            exponential_sum += tl.sum(_exponential(p_logits, o_row, o_column, B, M, high, low), axis=1)
            o_tile, mask = _tile(o_row, o_column, B, M)
            weighted += tl.sum(b_target * tl.load(p_logits + o_tile, mask=mask, other=0.0), axis=1)

    u = tl.where(o_row < B, 1 / target_sum, 0.0)
    scale = 1 / (temperature * B)
    softmax_scale = tl.where(o_row < B, scale / exponential_sum, 0.0)
    for start in range(0, M, COLUMNS):
        o_column = start + tl.arange(0, COLUMNS)
        if M > COLUMNS:
            v = _column_scaling(p_parts, parts, start, B, M, COLUMNS)
        b_out = _exponential(p_scores, o_row, o_column, B, M, high, low) * v[None, :] * u[:, None]
        if LOSS:
            b_softmax = _exponential(p_logits, o_row, o_column, B, M, high, low) * softmax_scale[:, None]
            b_out = b_softmax - b_out * scale
        o_tile, mask = _tile(o_row, o_column, B, M)
        tl.store(p_out + o_tile, b_out, mask=mask)

    if LOSS:
        losses = tl.log(exponential_sum) - weighted * u / temperature
        tl.store(p_losses + tl.program_id(0), tl.sum(tl.where(o_row < B, losses, 0.0), axis=0))
        programs = tl.num_programs(0)
        tl.debug_barrier()  # the store precedes the arrival
        if tl.atomic_add(p_arrivals, 1) == programs - 1:
            tl.debug_barrier()
            one = tl.arange(0, 1)
            total = add_parts(p_losses, programs, 1, one, one == 0, 1, 64)
            tl.store(p_loss + one, total / B)


@triton.jit
def _tile(o_row, o_column, B, M: tl.constexpr):
    """Offsets [ROWS, COLUMNS] and the mask of those inside the matrix."""
    return o_row.to(tl.int64)[:, None] * M + o_column[None, :], (o_row < B)[:, None] & (o_column < M)[None, :]


@triton.jit
def _exponential(p_x, o_row, o_column, B, M: tl.constexpr, high, low):
    """exp(x / T) = 2^(x (high + low)), corrected for rounding of the exponent; NaN for |x| >= 2, zero if masked."""
    o_tile, mask = _tile(o_row, o_column, B, M)
    x = tl.load(p_x + o_tile, mask=mask, other=0.0)
    exponent = x * high
    rest = tl.fma(x, high, -exponent) + x * low
    k = tl.where(tl.abs(x) < 2, tl.exp2(exponent) * (1 + rest * 0.6931471805599453), float("nan"))
    return tl.where(mask, k, 0.0)


@triton.jit
def _column_scaling(p_parts, parts, start, B, M: tl.constexpr, COLUMNS: tl.constexpr):
    o_column = start + tl.arange(0, COLUMNS)
    inside = o_column < M
    return tl.where(inside, (B / M) / add_parts(p_parts, parts, M, o_column, inside, COLUMNS, 8192 // COLUMNS), 0.0)


def sinkhorn(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """Launches the kernels; `kernels.sinkhorn` has checked the arguments."""
    out = torch.empty_like(scores)
    _launch(scores, None, out, None, temperature, iterations)
    return out


def sinkhorn_cross_entropy(
    logits: Tensor, scores: Tensor, temperature: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Launches the kernels; returns (loss, gradient of the logits)."""
    gradient = torch.empty_like(scores)
    loss = scores.new_empty(())
    _launch(scores, logits, gradient, loss, temperature, iterations)
    return loss, gradient


def tile(size: int) -> dict[str, int]:
    """Tile sizes for rows of `size` elements."""
    columns = min(1024, max(16, triton.next_power_of_2(size)))
    return {"ROWS": min(16, _ELEMENTS // columns), "COLUMNS": columns}


def _launch(
    scores: Tensor, logits: Tensor | None, out: Tensor, loss: Tensor | None, temperature: float, iterations: int
) -> None:
    batch, size = scores.shape
    block = tile(size)
    programs = triton.cdiv(batch, block["ROWS"])
    exponent = math.log2(math.e) / temperature
    high = float(np.float32(exponent))
    low = exponent - high
    parts, count = scores, 0
    for iteration in range(iterations):
        sums = scores.new_empty((programs, size))
        sinkhorn_scale_kernel[(programs,)](
            *(scores, parts, sums, count, batch, high, low, size),
            FIRST=iteration == 0,
            **block,
            **OPTIONS,
        )
        parts, count = sums, programs
        if programs > _MAX_PARTS:
            parts, count = scores.new_empty((1, size)), 1
            sinkhorn_add_kernel[(triton.cdiv(size, ADD_COLUMNS),)](
                sums, parts, programs, size, COLUMNS=ADD_COLUMNS, **ADD_OPTIONS
            )
    if loss is None:
        for_loss = (out, out, out)
    else:
        for_loss = (loss, scores.new_empty(programs), torch.zeros(1, dtype=torch.int32, device=scores.device))
    sinkhorn_result_kernel[(programs,)](
        *(scores, scores if logits is None else logits, parts, out, *for_loss),
        *(count, batch, high, low, temperature, size),
        LOSS=loss is not None,
        **block,
        **OPTIONS,
    )
