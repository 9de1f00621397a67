"""The interface between a method's phases and the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bcvlr_fast.data.replay import Replay
from bcvlr_fast.training.learner import Learner


class Resumable(Protocol):
    """Something with state: nested dictionaries of tensors, arrays and JSON values."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Any: ...


class Loop(Protocol):
    """Runs learners, and logs and saves between their steps.

    Every call may save the run and may raise `Interrupted`, so a phase must be resumable at every call.
    """

    def train(self, learner: Learner, title: str, part: str = "") -> dict[str, float]:
        """Runs the learner's remaining updates; returns the last metrics, empty where there were none.

        Their time counts for `part`, by default the learner's name.
        """

    def spend(self, part: str, count: int) -> contextlib.AbstractContextManager[None]:
        """Adds the time within it to `part`, for `count` units of work."""

    def restoring(self, title: str, total: int, unit: str) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """Within it, saved state is rebuilt and nothing is saved; yields a callback for the progress."""

    def safe_point(self) -> None:
        """A point between two pieces of work at which the run may be saved or stopped."""

    def collected(self, round_: int, interactions: int, replay: Replay, metrics: Mapping[str, float]) -> None:
        """Logs a round, counted from 0, whose transitions are in `replay`: its `metrics` and the scores of the episodes
        that ended in it."""

    def warn(self, lines: list[str]) -> None:
        """Reports what looks broken, on the screen and in the report."""
