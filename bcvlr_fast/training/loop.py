"""The interfaces between the phases of a method and the loop that runs and saves them."""

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
    """Runs learners to their end and receives the events between them.

    Every call may save the run and may raise `Interrupted`, so a phase must be resumable at every call.
    """

    def train(self, learner: Learner, title: str) -> dict[str, float]:
        """Runs the learner's remaining updates; returns the last metrics, empty where there were none."""

    def spend(self, part: str, count: int) -> contextlib.AbstractContextManager[None]:
        """Records the time spent in the context for `count` pieces of work of `part`."""

    def restoring(self, title: str, total: int, unit: str) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """Context in which saved state is rebuilt; yields a function that reports progress. Saves nothing."""

    def safe_point(self) -> None:
        """A point between two pieces of work at which the run may be saved or stopped."""

    def collected(self, round_: int, interactions: int, replay: Replay, metrics: Mapping[str, float]) -> None:
        """Logs a round, counted from 0, whose transitions are in `replay`: its `metrics` and the scores of the episodes
        that ended in it."""

    def warn(self, lines: list[str]) -> None:
        """Reports what looks broken, on the screen and in the report."""


class PlainLoop:
    """A `Loop` that runs learners and saves nothing, for tests, benchmarks and notebooks."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def train(self, learner: Learner, title: str) -> dict[str, float]:  # noqa: ARG002
        while learner.done < learner.updates:
            learner.step()
        return learner.read_metrics()

    def spend(self, part: str, count: int) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        return contextlib.nullcontext()

    def restoring(
        self,
        title: str,  # noqa: ARG002
        total: int,  # noqa: ARG002
        unit: str,  # noqa: ARG002
    ) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        return contextlib.nullcontext(lambda _: None)

    def safe_point(self) -> None:
        pass

    def collected(self, round_: int, interactions: int, replay: Replay, metrics: Mapping[str, float]) -> None:
        pass

    def warn(self, lines: list[str]) -> None:
        self.warnings += lines
