"""The interface of a method: its phases, its policy, and what it may see."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from bcvlr_fast.data.replay import Replay
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs.budget import Budget
from bcvlr_fast.envs.specs import EnvSpec
from bcvlr_fast.methods.policy import Policy
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.learner import Learner
from bcvlr_fast.training.loop import Loop


class Sight(enum.Flag):
    """What a method may see."""

    VIDEOS = enum.auto()
    REWARD = enum.auto()
    LABELS = enum.auto()


@dataclass(frozen=True)
class Sources:
    """What a run gives a method to learn from, restricted to what the method may see."""

    videos: WindowSampler
    """Windows of the expert's training videos."""
    make_env: Callable[[int, int], Budget]
    """(num_envs, interactions) -> new environments with a budget of `interactions`."""
    labels: Tensor | None = None
    """The expert's actions at `videos.centers`, [W] int64 or [W, A] float32; None unless the method sees LABELS."""
    transitions: Replay | None = None
    """A user's labeled transitions, which replace interaction if they are given."""


class Phase(Protocol):
    """A part of training that can be saved and resumed at every safe point of its loop."""

    def run(self, loop: Loop) -> None:
        """Runs the phase from its current position to its end."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Method(Protocol):
    """Networks and the phases that train them."""

    sees: ClassVar[Sight]
    task_phase: ClassVar[str]
    """First phase that runs once per task; several tasks share the earlier ones. Empty: one task only."""
    takes_transitions: ClassVar[bool]
    """Whether labeled transitions can take the place of interaction."""
    config: Any
    """Settings; those of a phase are read when it begins."""
    agent: nn.Module
    """All networks that a checkpoint stores."""
    policy: Policy
    """The policy that acts after training."""

    def __init__(self, config: Any, spec: EnvSpec, compute: Compute, *, restored: bool = False) -> None:
        """`restored` networks get their weights from a checkpoint."""

    @property
    def summary(self) -> str:
        """One sentence about what the policy is learned from."""

    @classmethod
    def check(cls, config: Any, spec: EnvSpec, restored: bool) -> None:
        """Raises UserError if something that `config` names is missing; called before a run writes anything."""

    def phases(self, sources: Sources) -> dict[str, Callable[[], Phase]]:
        """Phase constructors by name, in order; each is called when its phase begins."""


class LearnerPhase:
    """A phase of one learner, or of none."""

    def __init__(self, name: str, title: str, learner: Learner | None) -> None:
        self.name, self.title, self.learner = name, title, learner

    def run(self, loop: Loop) -> None:
        if self.learner is not None:
            self.report(loop, loop.train(self.learner, self.title, self.name))

    def report(self, loop: Loop, metrics: dict[str, float]) -> None:
        """Reports what the last metrics show."""

    def state_dict(self) -> dict[str, Any]:
        return {} if self.learner is None else self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.learner is not None:
            self.learner.load_state_dict(state)
