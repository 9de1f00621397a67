"""Adds partial sums that many programs stored in memory."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_parts(p_parts, parts, stride, o_element, mask, LENGTH: tl.constexpr, AT_ONCE: tl.constexpr):
    """[LENGTH]: sum over i < parts of p_parts[i * stride + o_element], in a fixed order; zero outside the mask.

    AT_ONCE parts are loaded together to hide memory latency, and from the second-level cache, which
    all programs share.
    """
    total = tl.zeros([LENGTH], tl.float32)
    start = 0
    while start < parts:
        o_part = start + tl.arange(0, AT_ONCE)
        inside = (o_part < parts)[:, None] & mask[None, :]
        p_tile = p_parts + o_part.to(tl.int64)[:, None] * stride + o_element[None, :]
        total += tl.sum(tl.load(p_tile, mask=inside, other=0.0, cache_modifier=".cg"), axis=0)
        start += AT_ONCE
    return total
