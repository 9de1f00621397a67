"""The interface that every suite's environments share: batched steps that return uint8 frames and no reward."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from bcvlr_fast.envs.episodes import Episode
from bcvlr_fast.envs.specs import EnvSpec


class Step(NamedTuple):
    """Result of one call of `PixelEnv.step`, for the k environments stepped. It holds no reward."""

    frames: np.ndarray
    """[k, C, H, W] uint8: the frames after the actions, the last frame of an episode included."""
    ended: np.ndarray
    """[k] bool: whether the episode ended."""
    first_frames: np.ndarray
    """[ended.sum(), C, H, W] uint8: first frames of the episodes that follow the ended ones."""

    def next_frames(self) -> np.ndarray:
        """Frames [k, C, H, W] uint8 to act on next."""
        frames = self.frames.copy()
        frames[self.ended] = self.first_frames
        return frames


class PixelEnv(Protocol):
    """A batch of environments that return uint8 frames. A call of `step` is one interaction per action."""

    num_envs: int
    spec: EnvSpec

    @property
    def last_reward(self) -> np.ndarray:
        """[num_envs] float64: reward of each environment's newest step, for experts and methods that may see it."""

    def reset(self) -> np.ndarray:
        """Starts a new episode in every environment and returns frames [num_envs, C, H, W] uint8."""

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        """Steps all environments, or only those numbered `envs` [k]. A new episode follows each one that ends.

        Raises ValueError for actions of the wrong number, type or range.
        """

    def pop_episodes(self) -> list[Episode]:
        """Returns the episodes that finished since the last call."""

    def close(self) -> None: ...
