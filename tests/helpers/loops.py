"""A loop that runs learners and keeps nothing."""

import contextlib
from collections.abc import Callable, Mapping

from bcvlr_fast.data.replay import Replay
from bcvlr_fast.training.learner import Learner


class PlainLoop:
    """A `Loop` without a run folder."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def train(self, learner: Learner, title: str, part: str = "") -> dict[str, float]:  # noqa: ARG002
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
