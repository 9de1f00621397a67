"""Resamples videos from their frame rate to the step rate of an environment."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.videos.readers.chunks import Chunk

_TIMES = 512


class TimeSampler:
    """Chooses the frames nearest to the ticks of a rate, counted from the start of each episode; repeats none."""

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._origin_s = 0.0
        self._tick = 0
        self._begins = True
        self._times: list[float] = []

    @property
    def source_fps(self) -> float | None:
        """Estimated from the first time stamps; None if there are none."""
        steps = np.diff(self._times)
        if not len(steps) or np.median(steps) <= 0:
            return None
        usual = steps[steps < 3 * np.median(steps)]  # ignores pauses; the mean undoes rounding to milliseconds
        return round(1 / float(usual.mean()), 2)

    def choose(self, chunk: Chunk, marked: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns (rows of the chunk to keep, whether an episode begins at each).

        `marked` uses the source's own episode marks.
        """
        marks = chunk.starts if chunk.starts is not None and marked else np.zeros(len(chunk.frames), bool)
        if chunk.time_s is not None:
            self._times += chunk.time_s[: max(0, _TIMES - len(self._times))].tolist()
        if chunk.time_s is None or not self._fps:
            marks = marks.copy()
            marks[0] |= self._begins
            self._begins = False
            return np.arange(len(marks)), marks
        rows, begins = [], []
        # A frame is shown until the next one; the last of a chunk, as long as the one before it. A frame may be half of
        # that time away from a tick, and half a tick at most.
        shown_s = np.diff(chunk.time_s).clip(0, 1 / self._fps)
        shown_s = np.append(shown_s, shown_s[-1:] if len(shown_s) else 0.0)
        for row, (now, lasts) in enumerate(zip(chunk.time_s, shown_s, strict=True)):
            if marks[row] or self._begins:
                self._origin_s, self._tick, self._begins = float(now), 0, True
            reached = (now - self._origin_s + lasts / 2) * self._fps
            if reached >= self._tick:
                rows.append(row)
                begins.append(self._begins)
                self._begins = False
                self._tick = int(reached) + 1
        return np.array(rows, np.int64), np.array(begins, bool)
