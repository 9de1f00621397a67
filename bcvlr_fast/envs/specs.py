"""What an environment shows, takes and is scored by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

FRAME_SHAPE = (3, 64, 64)


def env_seeds(seed: int, count: int) -> list[int]:
    """Seeds of `count` environments, which those of another seed share by a rare chance alone."""
    return (np.random.SeedSequence(seed).generate_state(count) >> 1).tolist()


@dataclass(frozen=True)
class Actions:
    """One of `size` discrete actions, or, where `continuous`, `size` numbers in -1..1, which suites scale to theirs."""

    continuous: bool
    size: int
    own_low: tuple[float, ...] = ()
    """What -1 stands for in the suite's own numbers, and 1 in `own_high`; empty where they are the same."""
    own_high: tuple[float, ...] = ()
    own_start: int = 0
    """The suite's own number of the first discrete action."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""
        return (self.size,) if self.continuous else ()

    def empty(self, count: int) -> np.ndarray:
        """[count, *shape] zeros, of the type that actions are kept in: float32 or int64."""
        return np.zeros((count, *self.shape), np.float32 if self.continuous else np.int64)

    def scaled(self, own: np.ndarray) -> np.ndarray:
        """Actions [N, size] in the suite's own numbers as float32 in -1..1."""
        if not self.own_low:
            return own.astype(np.float32)
        low, high = np.array(self.own_low), np.array(self.own_high)
        return ((own - low) / (high - low) * 2 - 1).astype(np.float32)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """[count, *shape] uniformly random actions."""
        if self.continuous:
            return rng.uniform(-1, 1, (count, self.size)).astype(np.float32)
        return rng.integers(self.size, size=count)

    def check(self, actions: np.ndarray, count: int) -> np.ndarray:
        """The actions as an array. Raises ValueError unless they are `count`, of this kind and in range."""
        actions = np.asarray(actions)
        kind = np.floating if self.continuous else np.integer
        if actions.shape != (count, *self.shape) or not np.issubdtype(actions.dtype, kind):
            expected = f"{'floats' if self.continuous else 'integers'} {[count, *self.shape]}"
            raise ValueError(f"actions: expected {expected}, got {actions.dtype} {list(actions.shape)}")
        low, high = (-1, 1) if self.continuous else (0, self.size - 1)
        if count and not (actions.min() >= low and actions.max() <= high):  # NaN is neither
            raise ValueError(f"actions: expected {low}..{high}, got {actions.min()}..{actions.max()}")
        return actions


@dataclass(frozen=True)
class EnvSpec:
    """An environment's frames (one, not a stack), actions, and what its episodes are scored by."""

    frame_shape: tuple[int, int, int]
    """(C, H, W)."""
    actions: Actions
    steps_per_s: float
    """The rate at which people watch it, a step a frame."""
    score: Literal["return", "success"] = "return"
    most_envs: int = 100
    """How many it is sensible to have at once: rendered ones take some 60 MB each."""
