"""nearest_code on a GPU: one launch (and a fill); the last program of a codebook to finish updates it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bcvlr_fast.kernels.nearest_code import Outputs, empty_outputs, reference
from bcvlr_fast.kernels.parts_triton import add_parts

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
BACKWARD_ELEMENTS = 1024
_MAX_DIM = 512  # maximum dimension of a code: a tile of sixteen must fit in registers


@triton.jit
def nearest_code_kernel(
    p_z,  # [B, K, D, P]
    p_codes,  # [K, M, D]
    p_count,  # [K, M], unused without UPDATE
    p_sum,  # [K, M, D], unused without UPDATE
    p_quantized,  # like z
    p_commitment,  # []
    p_indices,  # [B, K, P]
    p_perplexity,  # [K]
    p_parts,  # scratch: one part per program and codebook, then one error per codebook
    p_arrivals,  # [K + 1] int32, zero
    rows,  # B * P
    weight,  # 1 - decay
    restart_below,
    K: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    UPDATE: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Row r is position r % P of sample r // P. Sums are added in a fixed order, so runs are bit-identical.

    Each part contains uses [SIZE], sums [SIZE, DIMS] and a squared error.
    """
    SIZE: tl.constexpr = (M + CODES - 1) // CODES * CODES
    PART: tl.constexpr = SIZE + SIZE * DIMS + 16
    i_block = tl.program_id(0)
    i_book = tl.program_id(1)
    blocks = tl.num_programs(0)
    o_row = i_block * ROWS + tl.arange(0, ROWS)
    o_dim = tl.arange(0, DIMS)
    m_row = o_row < rows
    m_dim = o_dim < D
    m_x = m_row[:, None] & m_dim[None, :]
    p_codes += i_book * M * D
    o_x = _element(o_row, i_book, o_dim, K, D, P)
    b_x = tl.load(p_z + o_x, mask=m_x, other=0.0)

    nearest = tl.full([ROWS], float("inf"), tl.float32)
    index = tl.zeros([ROWS], tl.int32)
    for start in range(0, M, CODES):
        o_code = start + tl.arange(0, CODES)
        m_code = o_code < M
        b_code = tl.load(  # [DIMS, CODES]
            p_codes + o_code[None, :] * D + o_dim[:, None], mask=m_code[None, :] & m_dim[:, None], other=0.0
        )
        distance = tl.sum(b_code * b_code, axis=0)[None, :] * 0.5 - tl.dot(b_x, b_code, input_precision="ieee")
        distance = tl.where(m_code[None, :] & (distance == distance), distance, float("inf"))  # NaN is never nearest
        nearer = tl.min(distance, axis=1)
        where = start + tl.argmin(distance, axis=1, tie_break_left=True)
        index = tl.where(nearer < nearest, where, index)
        nearest = tl.minimum(nearer, nearest)

    b_picked = tl.load(p_codes + index[:, None] * D + o_dim[None, :], mask=m_x, other=0.0)
    tl.store(p_quantized + o_x, b_picked, mask=m_x)
    o_index = ((o_row // P).to(tl.int64) * K + i_book) * P + o_row % P
    tl.store(p_indices + o_index, index.to(tl.int64), mask=m_row)
    away = b_x - b_picked
    p_book = p_parts + i_book.to(tl.int64) * blocks * PART
    p_part = p_book + i_block.to(tl.int64) * PART
    tl.store(p_part + SIZE + SIZE * DIMS, tl.sum(tl.sum(away * away, axis=1), axis=0))
    for start in range(0, M, CODES):
        o_code = start + tl.arange(0, CODES)
        picked = ((index[:, None] == o_code[None, :]) & m_row[:, None]).to(tl.float32)  # [ROWS, CODES]
        tl.store(p_part + o_code, tl.sum(picked, axis=0))
        if UPDATE:
            b_sum = tl.dot(tl.trans(picked), b_x, input_precision="ieee")
            tl.store(p_part + SIZE + o_code[:, None] * DIMS + o_dim[None, :], b_sum)

    tl.debug_barrier()  # stores of all threads precede the arrival
    if tl.atomic_add(p_arrivals + i_book, 1) == blocks - 1:
        tl.debug_barrier()
        _finish_book(
            *(p_z, p_codes, p_count + i_book * M, p_sum + i_book * M * D, p_perplexity + i_book, p_book),
            *(i_book, rows, blocks, weight, restart_below, K, M, D, P, UPDATE, CODES, DIMS),
        )
        one = tl.arange(0, 1)
        book_error = add_parts(p_book + SIZE + SIZE * DIMS, blocks, PART, one, one == 0, 1, 32)
        p_errors = p_parts + tl.full((), K, tl.int64) * blocks * PART
        tl.store(p_errors + i_book + one, book_error)
        tl.debug_barrier()
        if tl.atomic_add(p_arrivals + K, 1) == K - 1:
            tl.debug_barrier()
            total = add_parts(p_errors, K, 1, one, one == 0, 1, 8)
            tl.store(p_commitment + one, total / (rows * 1.0 * (K * D)))


@triton.jit
def nearest_code_backward_kernel(
    p_z, p_quantized, p_quantized_gradient, p_commitment_gradient, p_out, size, ELEMENTS: tl.constexpr
):
    """quantized_gradient + 2 / size * commitment_gradient * (z - quantized)"""
    o_element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = o_element < size
    scale = tl.load(p_commitment_gradient) * (2.0 / size)
    away = tl.load(p_z + o_element, mask=inside) - tl.load(p_quantized + o_element, mask=inside)
    tl.store(p_out + o_element, tl.load(p_quantized_gradient + o_element, mask=inside) + scale * away, mask=inside)


@triton.jit
def _element(row, book, dim, K: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    """Offsets [rows, dims] in z."""
    return (((row // P).to(tl.int64) * K + book) * (D * P) + row % P)[:, None] + dim[None, :] * P


@triton.jit
def _finish_book(
    p_z,
    p_codes,  # [M, D]; these and the following pointers are of this codebook
    p_count,
    p_sum,
    p_perplexity,
    p_book,  # parts of this codebook
    i_book,
    rows,
    blocks,
    weight,
    restart_below,
    K: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    UPDATE: tl.constexpr,
    CODES: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Computes the perplexity of a codebook and updates its EMA from the parts that its programs stored."""
    SIZE: tl.constexpr = (M + CODES - 1) // CODES * CODES
    PART: tl.constexpr = SIZE + SIZE * DIMS + 16
    count_before = 0.0
    if UPDATE:
        for start in range(0, M, CODES):
            o_code = start + tl.arange(0, CODES)
            count_before += tl.sum(tl.load(p_count + o_code, mask=o_code < M, other=0.0), axis=0)
        tl.debug_barrier()  # all threads have read the counts
    all_rows = rows * 1.0
    total = count_before + weight * (all_rows - count_before)  # sum of the counts after the update
    entropy = 0.0
    dead_before = 0
    for start in range(0, M, CODES):
        o_code = start + tl.arange(0, CODES)
        m_code = o_code < M
        uses = add_parts(p_book, blocks, PART, o_code, m_code, CODES, 32)
        share = uses / all_rows
        entropy -= tl.sum(tl.where(share > 0, share * tl.log(share + 1e-10), 0.0), axis=0)
        if UPDATE:
            o_dim = tl.arange(0, DIMS)
            m_tile = m_code[:, None] & (o_dim < D)[None, :]
            o_tile = o_code[:, None] * D + o_dim[None, :]
            before = tl.load(p_count + o_code, mask=m_code, other=0.0)
            count = (before + weight * (uses - before) + 1e-5) * (total / (total + M * 1e-5))
            o_flat = start * DIMS + tl.arange(0, CODES * DIMS)
            AT_ONCE: tl.constexpr = max(1, 16384 // (CODES * DIMS))
            b_sum = add_parts(p_book + SIZE, blocks, PART, o_flat, o_flat >= 0, CODES * DIMS, AT_ONCE)
            sum_before = tl.load(p_sum + o_tile, mask=m_tile, other=0.0)
            b_sum = sum_before + weight * (tl.reshape(b_sum, [CODES, DIMS]) - sum_before)

            dead = m_code & (restart_below > 0) & ((count < restart_below) | (before == 0))
            turn = dead_before + tl.cumsum(dead.to(tl.int32), axis=0) - 1
            dead_before += tl.sum(dead.to(tl.int32), axis=0)
            o_latent = _element(tl.where(dead, turn % rows, 0), i_book, o_dim, K, D, P)
            fresh = tl.load(p_z + o_latent, mask=m_tile & dead[:, None], other=0.0)
            b_sum = tl.where(dead[:, None], fresh, b_sum)
            count = tl.where(dead, 1.0, count)

            tl.debug_barrier()  # all threads have read the values that are overwritten next
            tl.store(p_count + o_code, count, mask=m_code)
            tl.store(p_sum + o_tile, b_sum, mask=m_tile)
            tl.store(p_codes + o_tile, b_sum / count[:, None], mask=m_tile)
    tl.store(p_perplexity, tl.exp(entropy))


def nearest_code(
    z: Tensor,
    codes: Tensor,
    ema_count: Tensor | None = None,
    ema_sum: Tensor | None = None,
    decay: float = 0.0,
    restart_below: float = 0.0,
) -> Outputs:
    """Launches the kernel; `kernels.nearest_code` has checked the arguments."""
    books, size, dim = codes.shape
    if torch.version.hip:
        # On AMD, a barrier does not wait for the stores of other waves, which the last program must see.
        return reference(z, codes, ema_count, ema_sum, decay, restart_below)
    if dim > _MAX_DIM:
        raise ValueError(f"codes: expected D <= {_MAX_DIM} on a GPU, got {list(codes.shape)}")
    outputs = quantized, commitment, indices, perplexity = empty_outputs(z, codes)
    positions = indices.shape[2]
    rows, update = len(z) * positions, ema_count is not None
    block = tile(size, dim)
    blocks = triton.cdiv(rows, block["ROWS"])
    padded = triton.cdiv(size, block["CODES"]) * block["CODES"]
    parts = z.new_empty(books * blocks * (padded + padded * block["DIMS"] + 16) + books)
    arrivals = torch.zeros(books + 1, dtype=torch.int32, device=z.device)
    nearest_code_kernel[(blocks, books)](
        *(z, codes, ema_count if update else codes, ema_sum if update else codes),
        *(quantized, commitment, indices, perplexity, parts, arrivals),
        *(rows, 1 - decay, float(restart_below)),
        *(books, size, dim, positions),
        UPDATE=update,
        **block,
        **OPTIONS,
    )
    return outputs


def nearest_code_backward(
    z: Tensor, quantized: Tensor, quantized_gradient: Tensor, commitment_gradient: Tensor
) -> Tensor:
    """Launches the backward kernel; returns the gradient of z."""
    out = torch.empty_like(z)
    nearest_code_backward_kernel[(triton.cdiv(z.numel(), BACKWARD_ELEMENTS),)](
        *(z, quantized, quantized_gradient, commitment_gradient, out, z.numel()),
        ELEMENTS=BACKWARD_ELEMENTS,
        **OPTIONS,
    )
    return out


def tile(size: int, dim: int) -> dict[str, int]:
    """Tile sizes: rows, codes per step, and padded dimensions of a code. Matrix products need at least 16 of each."""
    dims = max(16, triton.next_power_of_2(dim))
    return {
        "ROWS": 64 if dims <= 64 else 16,
        "CODES": min(64, max(16, triton.next_power_of_2(size)), max(16, 4096 // dims)),
        "DIMS": dims,
    }
