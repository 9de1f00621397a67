"""The window of frames around a time step that a network sees."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """Observations o_{t - past} .. o_{t + future} around a step t; an observation is a stack of `stack` frames."""

    past: int
    future: int
    stack: int = 1

    @property
    def observations(self) -> int:
        """Observations in the window, o_t included."""
        return self.past + 1 + self.future

    @property
    def reach(self) -> int:
        """Single frames that the window needs before frame t."""
        return self.past + self.stack - 1

    @property
    def frames(self) -> int:
        """Single frames that the window's stacks cover."""
        return self.observations + self.stack - 1
