"""Environments by name: `make("procgen:bossfight")` gives one batched pixel interface to all suites."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from bcvlr_fast.envs.episodes import Episode
from bcvlr_fast.envs.names import PROCGEN_GAMES, SUITES
from bcvlr_fast.envs.specs import FRAME_SHAPE, Actions, EnvSpec
from bcvlr_fast.system.errors import UserError, did_you_mean

_DMC_ACTIONS = {
    "acrobot": 1,
    "ball_in_cup": 2,
    "cartpole": 1,
    "cheetah": 6,
    "dog": 38,
    "finger": 2,
    "fish": 5,
    "hopper": 4,
    "humanoid": 21,
    "humanoid_CMU": 56,
    "jaco": 9,
    "lqr_lqr_2": 1,
    "lqr_lqr_6": 2,
    "manipulator": 5,
    "pendulum": 1,
    "point_mass": 2,
    "quadruped": 12,
    "reacher": 2,
    "stacker": 5,
    "swimmer_swimmer6": 5,
    "swimmer_swimmer15": 14,
    "walker": 6,
}
_DMC_TIMESTEP_MS = {
    "acrobot": 10,
    "cartpole": 10,
    "cheetah": 10,
    "dog": 15,
    "fish": 40,
    "humanoid": 25,
    "humanoid_CMU": 20,
    "jaco": 40,
    "lqr": 30,
    "manipulator": 10,
    "stacker": 10,
    "swimmer": 30,
    "walker": 25,
}
"""Of control; 20 ms in the other domains."""
Rendering = Literal["stock", "fast"]
_OPEN_SUITES = ("gym", "factory")
_RENDERED_ENVS = 16


class Step(NamedTuple):
    """What one call of `PixelEnv.step` saw, for the k environments stepped. There is no reward in it."""

    frames: np.ndarray
    """[k, C, H, W] uint8: the frames that the actions led to, the last of an episode included."""
    ended: np.ndarray
    """[k] bool: the episode is over."""
    first_frames: np.ndarray
    """[ended.sum(), C, H, W] uint8: first frames of the episodes that follow."""

    def next_frames(self) -> np.ndarray:
        """[k, C, H, W]: the frames to act on next."""
        frames = self.frames.copy()
        frames[self.ended] = self.first_frames
        return frames


class PixelEnv(Protocol):
    """A batch of environments that give uint8 frames; every call of `step` is len(actions) interactions."""

    num_envs: int
    spec: EnvSpec

    def reset(self) -> np.ndarray:
        """Starts all episodes anew: frames [num_envs, C, H, W] uint8."""

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        """Steps all environments, or those numbered `envs`; ended episodes are followed by new ones.

        Raises ValueError for actions that are not the environment's or of the wrong number.
        """

    def pop_episodes(self) -> list[Episode]:
        """The episodes finished since the last call."""

    def close(self) -> None: ...


def parse_name(name: str) -> tuple[str, str]:
    """(suite, task) of an environment's name. Raises UserError naming the did_you_mean match."""
    suite, colon, task = name.partition(":")
    if suite in _OPEN_SUITES and task:
        if suite == "factory" and not all(task.partition(":")):
            raise UserError(f"env: expected factory:module:function, got '{name}'")
        return suite, task
    if not colon or suite not in SUITES:
        known = tuple(f"{s}:{t}" for s in SUITES for t in SUITES[s])
        raise UserError(f"env: expected suite:task such as procgen:bossfight, got '{name}'{did_you_mean(name, known)}")
    if task not in SUITES[suite]:
        raise UserError(f"env: '{task}' is not a task of {suite}{did_you_mean(task, SUITES[suite])}")
    return suite, task


@functools.cache
def spec(name: str) -> EnvSpec:
    """What `make` will give. Raises UserError for an unknown name; Gymnasium's environments are made to be asked."""
    suite, task = parse_name(name)
    if suite == "procgen":
        return EnvSpec(FRAME_SHAPE, Actions(False, 15), 15.0)  # Procgen's own player shows 15 a second
    if suite == "metaworld":
        return EnvSpec(FRAME_SHAPE, Actions(True, 4), 40.0, "success", _RENDERED_ENVS)
    if suite == "dmc":
        rate = 1000 / (2 * _by_domain(_DMC_TIMESTEP_MS, task, 20))
        return EnvSpec(FRAME_SHAPE, Actions(True, _by_domain(_DMC_ACTIONS, task)), rate, "return", _RENDERED_ENVS)
    from bcvlr_fast.envs.gym import spec_of

    return spec_of(suite, task)


def _by_domain(table: dict[str, int], task: str, default: int = 0) -> int:
    """The entry of the longest key that the task's name begins with."""
    keys = [key for key in table if task.startswith(f"{key}_") or task == key]
    return table[max(keys, key=len)] if keys else default


def chosen_rendering(name: str, rendering: str) -> Rendering:
    """stock or fast for the rendering of a MuJoCo suite that was asked for, with auto by whether there is a GPU; stock
    for all other suites."""
    if rendering == "stock" or parse_name(name)[0] not in ("dmc", "metaworld"):
        return "stock"
    if rendering == "fast":
        return "fast"
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev/dri").glob("renderD*"))
    return "stock" if has_gpu else "fast"


def make(
    name: str, num_envs: int, seed: int, level: int | None = None, rendering: str = "stock", blind: bool = False
) -> PixelEnv:
    """The environments of `name`, seeded.

    `level` fixes Procgen's level instead of the full distribution; `rendering` is how MuJoCo draws: stock, fast, auto;
    `blind` environments show nothing, and are quick where drawing is slow: for policies that do not look.
    Raises UserError for an unknown name, a missing library, or where there is no rendering.
    """
    suite, task = parse_name(name)
    if suite == "procgen":
        from bcvlr_fast.envs.procgen import Procgen

        return Procgen(task, num_envs, seed, level)
    if suite in _OPEN_SUITES:
        from bcvlr_fast.envs.gym import GymEnv

        return GymEnv(suite, task, num_envs, seed)
    from bcvlr_fast.envs.rendered import Simulated

    return Simulated(name, num_envs, seed, None if blind else chosen_rendering(name, rendering))


__all__ = [
    "PROCGEN_GAMES",
    "Episode",
    "PixelEnv",
    "Step",
    "chosen_rendering",
    "make",
    "parse_name",
    "spec",
]
