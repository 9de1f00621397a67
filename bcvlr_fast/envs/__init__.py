"""Environments by name: `make("procgen:bossfight")` gives one batched pixel interface."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from bcvlr_fast.config import nearest
from bcvlr_fast.envs.names import PROCGEN_GAMES, SUITES
from bcvlr_fast.errors import UserError


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


class Episode(NamedTuple):
    """A finished episode, for evaluation only."""

    env: int
    episode_return: float
    length_steps: int


class PixelEnv(Protocol):
    """A batch of environments that give uint8 frames; every call of `step` is len(actions) interactions."""

    num_envs: int
    num_actions: int
    frame_shape: tuple[int, int, int]

    def reset(self) -> np.ndarray:
        """Starts all episodes anew: frames [num_envs, C, H, W] uint8."""

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        """Steps all environments, or those numbered `envs`; ended episodes are followed by new ones.

        Raises ValueError for actions outside 0..num_actions - 1 or of the wrong number.
        """

    def pop_episodes(self) -> list[Episode]:
        """The episodes finished since the last call."""

    def close(self) -> None: ...


def parse_name(name: str) -> tuple[str, str]:
    """(suite, task) of an environment's name. Raises UserError naming the nearest match."""
    suite, colon, task = name.partition(":")
    if not colon or suite not in SUITES:
        known = tuple(f"{s}:{t}" for s in SUITES for t in SUITES[s])
        raise UserError(f"env: expected suite:task such as procgen:bossfight, got '{name}'{nearest(name, known)}")
    if task not in SUITES[suite]:
        raise UserError(f"env: '{task}' is not a task of {suite}{nearest(task, SUITES[suite])}")
    return suite, task


def frame_shape(name: str) -> tuple[int, int, int]:
    """(C, H, W) of the frames that `make` will give. Raises UserError for an unknown name."""
    parse_name(name)
    return (3, 64, 64)


def steps_per_s(name: str) -> float:
    """The rate at which people watch an environment, a step a frame: Procgen's own player shows 15 a second."""
    parse_name(name)
    return 15.0


def make(name: str, num_envs: int, seed: int, level: int | None = None) -> PixelEnv:
    """The environments of `name`, seeded; `level` fixes the level instead of the full distribution.

    Raises UserError for an unknown name or a missing library.
    """
    _, task = parse_name(name)
    from bcvlr_fast.envs.procgen import Procgen

    return Procgen(task, num_envs, seed, level)


__all__ = ["PROCGEN_GAMES", "Episode", "PixelEnv", "Step", "frame_shape", "make", "parse_name", "steps_per_s"]
