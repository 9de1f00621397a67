"""Where episodes begin, in sources of arrays and in films without marks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

START_NAMES = ("is_first", "first", "episode_starts", "starts")
END_NAMES = ("is_last", "episode_ends")
DONE_NAMES = ("done", "dones", "terminals", "terminated", "terminations")
TRUNCATION_NAMES = ("timeouts", "truncated", "truncations")
_LEAST_CUT = 8.0
_CUT_RATIO = 4.0
_HISTORY = 64
_LEAST_HISTORY = 5
_FLAGS_TO_TELL = 8


def jumps(frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """[n] mean absolute difference, 0..255, of each frame [n, H, W, C] from the one before; `before` precedes them."""
    previous = frames[:1] if before is None else before[None]
    shifted = np.concatenate([previous, frames[:-1]]).astype(np.int16)
    return np.abs(frames - shifted).mean(axis=(1, 2, 3))


def starts_of(flags: np.ndarray, means: str) -> np.ndarray:
    """[N] bool first frames of episodes from flags [N] that stand on the `first` or the `last` frame of each."""
    flags = flags.reshape(-1) != 0
    starts = flags.copy() if means == "first" else np.concatenate([[False], flags[:-1]])
    starts[:1] = True
    return starts


def done_means(flags: np.ndarray, blocks: Iterator[np.ndarray]) -> str:
    """Whether `done` stands on the `first` frame of an episode or on the `last`: projects do either.

    `blocks` of frames [n, H, W, C] tell, from the start of the source: the picture jumps where an episode begins.
    """
    flags = flags.reshape(-1) != 0
    on, after, seen, row = 0.0, 0.0, 0, 0
    before: np.ndarray | None = None
    for block in blocks:
        thin = block[:, ::2, ::2]
        jump = jumps(thin, before)
        marked = np.flatnonzero(flags[row : row + len(block)])
        followed = marked[marked + 1 < len(block)]
        on += float(jump[followed].sum())
        after += float(jump[followed + 1].sum())
        seen, row, before = seen + len(followed), row + len(block), thin[-1]
        if seen >= _FLAGS_TO_TELL:
            break
    return "first" if on > after else "last"


class CutDetector:
    """Finds hard cuts: a frame that differs from the one before it by far more than its neighbours do."""

    def __init__(self) -> None:
        self._recent: list[float] = []
        self._before: np.ndarray | None = None

    def starts(self, frames: np.ndarray) -> np.ndarray:
        """[n] bool for frames [n, H, W, C] uint8 that follow those seen so far."""
        found = np.zeros(len(frames), bool)
        for i, jump in enumerate(jumps(frames, self._before)):
            if self._before is None and i == 0:
                found[i] = True
                continue
            if len(self._recent) >= _LEAST_HISTORY:
                found[i] = jump > max(_LEAST_CUT, _CUT_RATIO * float(np.median(self._recent)))
            self._recent = [*self._recent[1 - _HISTORY :], float(jump)]
        self._before = frames[-1]
        return found
