"""The description of a suite: its tasks, their specs, how to make environments, and which expert plays them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bcvlr_fast.envs.assets import Models
from bcvlr_fast.envs.interface import PixelEnv
from bcvlr_fast.envs.simulation import Simulation
from bcvlr_fast.envs.specs import EnvSpec, Rendering


class EnvOptions(NamedTuple):
    """Options that only some suites use; the others ignore them."""

    level: int | None = None
    """Procgen: the one level to play; None plays the full distribution."""
    rendering: Rendering = "stock"
    """MuJoCo: how frames are drawn."""
    blind: bool = False
    """MuJoCo: frames are black, and steps are faster."""


class MakeEnv(Protocol):
    """Makes `num_envs` seeded environments of a task."""

    def __call__(self, task: str, num_envs: int, seed: int, options: EnvOptions, /) -> PixelEnv: ...


@dataclass(frozen=True)
class Suite:
    """A family of environments whose names are `<name>:<task>`."""

    name: str
    spec: Callable[[str], EnvSpec]
    """Spec of a task."""
    make: MakeEnv
    tasks: tuple[str, ...] | None = None
    """All tasks; None if the suite accepts any name that `check` accepts."""
    check: Callable[[str], None] = lambda _: None
    """Raises UserError for a malformed task name of a suite without a list of tasks."""
    expert: str = ""
    """Kind of the bundled experts, a key of `experts.EXPERTS`; empty if there are none."""
    makers: tuple[str, ...] = ()
    """Ways in which `python -m bcvlr_fast.expert` makes an expert: planner, distill, ppo, sac."""
    models: Models | None = None
    """MuJoCo models of a suite that is drawn as stock or fast."""
    simulation: Callable[[str, list[int], Rendering | None], Simulation] | None = None
    """Physics of a MuJoCo task for (task, one seed per environment, rendering or None for states alone)."""

    @property
    def renderings(self) -> bool:
        """Whether MuJoCo draws the suite's frames, as stock or fast."""
        return self.models is not None
