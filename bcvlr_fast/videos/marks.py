"""Finds where episodes begin: from the flags of a source, or from cuts between frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

START_NAMES = ("is_first", "first", "episode_starts", "starts")
END_NAMES = ("is_last", "episode_ends")
DONE_NAMES = ("done", "dones", "terminals", "terminated", "terminations")
TRUNCATION_NAMES = ("timeouts", "truncated", "truncations")
_MIN_CUT = 8.0
_CUT_RATIO = 4.0
_HISTORY = 64
_MIN_HISTORY = 5
_MAX_FLAGS = 8


def jumps(frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """[n] mean absolute difference, 0..255, between each frame [n, H, W, C] and the frame before it.

    `before` [H, W, C] precedes the first frame; without it the first difference is zero.
    """
    previous = frames[:1] if before is None else before[None]
    shifted = np.concatenate([previous, frames[:-1]]).astype(np.int16)
    return np.abs(frames - shifted).mean(axis=(1, 2, 3))


def starts_of(flags: np.ndarray, means: str) -> np.ndarray:
    """[N] bool, True on the first frame of each episode; flags [N] mark the `first` or the `last` frame of each."""
    flags = flags.reshape(-1) != 0
    starts = flags.copy() if means == "first" else np.concatenate([[False], flags[:-1]])
    starts[:1] = True
    return starts


def done_means(flags: np.ndarray, blocks: Iterator[np.ndarray]) -> str:
    """Whether `done` marks the `first` or the `last` frame of an episode; projects differ.

    `blocks` are the frames [n, H, W, C] of the source: they change the most between two episodes.
    """
    flags = flags.reshape(-1) != 0
    on, after, count, row = 0.0, 0.0, 0, 0
    before: np.ndarray | None = None
    for block in blocks:
        thin = block[:, ::2, ::2]
        jump = jumps(thin, before)
        marked = np.flatnonzero(flags[row : row + len(block)])
        followed = marked[marked + 1 < len(block)]
        on += float(jump[followed].sum())
        after += float(jump[followed + 1].sum())
        count, row, before = count + len(followed), row + len(block), thin[-1]
        if count >= _MAX_FLAGS:
            break
    return "first" if on > after else "last"


class CutDetector:
    """Finds hard cuts: frames that differ from the frame before them by far more than recent frames did."""

    def __init__(self) -> None:
        self._recent: list[float] = []
        self._before: np.ndarray | None = None

    def starts(self, frames: np.ndarray) -> np.ndarray:
        """[n] bool, True at cuts, for frames [n, H, W, C] uint8 that follow those of earlier calls."""
        starts = np.zeros(len(frames), bool)
        for i, jump in enumerate(jumps(frames, self._before)):
            if self._before is None and i == 0:
                starts[i] = True
                continue
            if len(self._recent) >= _MIN_HISTORY:
                starts[i] = jump > max(_MIN_CUT, _CUT_RATIO * float(np.median(self._recent)))
            self._recent = [*self._recent[1 - _HISTORY :], float(jump)]
        self._before = frames[-1]
        return starts
