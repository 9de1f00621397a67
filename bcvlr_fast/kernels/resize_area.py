"""Resizes frames by area: each new pixel is the mean of the area that it covers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np


def resize_area(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes [T, h, w, C] uint8 to [T, height, width, C] uint8, rounded to nearest."""
    if frames.shape[1:3] == (height, width):
        return frames
    rows = _covered(frames.shape[1], height)
    columns = _covered(frames.shape[2], width)
    return _compiled()(np.ascontiguousarray(frames), *rows, *columns)


def _covered(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """For each new pixel along a side: the first old pixel that it covers [new], and the weights [new, max] of that
    pixel and the following ones, which sum to 1."""
    edges = np.arange(new + 1) * old / new
    first = np.minimum(edges[:-1].astype(np.int64), old - 1)
    last = np.minimum(np.ceil(edges[1:] - 1e-9).astype(np.int64), old)
    covered = first[:, None] + np.arange((last - first).max())
    shares = np.minimum(covered + 1, edges[1:, None]) - np.maximum(covered, edges[:-1, None])
    shares = np.maximum(shares, 0) * (covered < old)
    return first, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def _compiled() -> Callable[..., np.ndarray]:
    """`_resize` compiled to machine code. Numba is imported here because that takes a quarter of a second."""
    import numba

    compiled: Callable[..., np.ndarray] = numba.njit(cache=True, nogil=True)(_resize)
    return compiled


def _resize(
    frames: np.ndarray, top: np.ndarray, row_share: np.ndarray, left: np.ndarray, column_share: np.ndarray
) -> np.ndarray:
    """Averages over rows first, whole rows at a time, then over columns."""
    count, old_height, old_width, channels = frames.shape
    height, width = len(top), len(left)
    out = np.empty((count, height, width, channels), np.uint8)
    line = np.empty(old_width * channels, np.float32)
    for t in range(count):
        old_rows = frames[t].reshape(old_height, old_width * channels)
        for y in range(height):
            line[:] = 0
            for i in range(row_share.shape[1]):
                share = row_share[y, i]
                if share > 0:
                    row = old_rows[top[y] + i]
                    for j in range(len(line)):
                        line[j] += share * np.float32(row[j])
            for x in range(width):
                for c in range(channels):
                    total = np.float32(0.5)
                    for i in range(column_share.shape[1]):
                        share = column_share[x, i]
                        if share > 0:
                            total += share * line[(left[x] + i) * channels + c]
                    out[t, y, x, c] = min(np.float32(255), total)
    return out
