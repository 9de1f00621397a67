"""Observation, action and scoring specs of an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

FRAME_SHAPE = (3, 64, 64)
"""(C, H, W) of a frame in every suite."""
Rendering = Literal["stock", "fast"]
"""How MuJoCo draws: as the suite defines it, or simplified for CPU rendering."""


def env_seeds(seed: int, count: int) -> list[int]:
    """Seeds of `count` environments; two different `seed`s almost never share one."""
    return (np.random.SeedSequence(seed).generate_state(count) >> 1).tolist()


@dataclass(frozen=True)
class Actions:
    """Actions of an environment: one of `size` discrete ones, or, if `continuous`, `size` numbers in -1..1."""

    continuous: bool
    size: int
    own_low: tuple[float, ...] = ()
    """The environment's own values for -1; empty if they are the same."""
    own_high: tuple[float, ...] = ()
    """The environment's own values for 1; empty if they are the same."""
    own_start: int = 0
    """The environment's own number of the first discrete action."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action."""
        return (self.size,) if self.continuous else ()

    def empty(self, count: int) -> np.ndarray:
        """Zeros [count, *shape] of the dtype in which actions are stored: float32 or int64."""
        return np.zeros((count, *self.shape), np.float32 if self.continuous else np.int64)

    def scaled(self, own: np.ndarray) -> np.ndarray:
        """Scales actions [N, size] from the environment's own range to -1..1 and returns float32."""
        if not self.own_low:
            return own.astype(np.float32)
        low, high = np.array(self.own_low), np.array(self.own_high)
        return ((own - low) / (high - low) * 2 - 1).astype(np.float32)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draws uniformly random actions [count, *shape]."""
        if self.continuous:
            return rng.uniform(-1, 1, (count, self.size)).astype(np.float32)
        return rng.integers(self.size, size=count)

    def check(self, actions: np.ndarray, count: int) -> np.ndarray:
        """Returns the actions as an array. Raises ValueError unless there are `count` of the right type and range."""
        actions = np.asarray(actions)
        kind = np.floating if self.continuous else np.integer
        if actions.shape != (count, *self.shape) or not np.issubdtype(actions.dtype, kind):
            expected = f"{'floats' if self.continuous else 'integers'} {[count, *self.shape]}"
            raise ValueError(f"actions: expected {expected}, got {actions.dtype} {list(actions.shape)}")
        low, high = (-1, 1) if self.continuous else (0, self.size - 1)
        if count and not (actions.min() >= low and actions.max() <= high):  # also refuses NaN
            raise ValueError(f"actions: expected {low}..{high}, got {actions.min()}..{actions.max()}")
        return actions


@dataclass(frozen=True)
class EnvSpec:
    """Frames (single ones, not stacks), actions and score of an environment."""

    frame_shape: tuple[int, int, int]
    """(C, H, W)."""
    actions: Actions
    steps_per_s: float
    """Steps per second at which people watch the environment; each step is one frame."""
    score: Literal["return", "success"] = "return"
    max_envs: int = 100
    """Maximum number of environments to run at once; each rendered one takes about 60 MB."""
