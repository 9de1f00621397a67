"""Frame stacks, for policies that need velocities, which a single frame does not show."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.envs.episodes import Episode
from bcvlr_fast.envs.interface import PixelEnv, Step


class Stacked:
    """A `PixelEnv` whose frames are stacks [k, stack * C, H, W] of the newest `stack` frames of another, oldest first.

    A new episode starts with copies of its first frame.
    """

    def __init__(self, env: PixelEnv, stack: int) -> None:
        self.env, self.stack = env, stack
        self.num_envs, self.spec = env.num_envs, env.spec
        self._channels = env.spec.frame_shape[0]
        self._stacks = np.empty((0,), np.uint8)  # [num_envs, stack * C, H, W]

    @property
    def last_reward(self) -> np.ndarray:
        return self.env.last_reward

    def reset(self) -> np.ndarray:
        self._stacks = self._repeated(self.env.reset())
        return self._stacks.copy()

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        step = self.env.step(actions, envs)
        rows = np.arange(self.num_envs) if envs is None else envs
        frames = np.concatenate([self._stacks[rows, self._channels :], step.frames], axis=1)
        first = self._repeated(step.first_frames)
        self._stacks[rows] = frames
        self._stacks[rows[step.ended]] = first
        return Step(frames, step.ended, first)

    def pop_episodes(self) -> list[Episode]:
        return self.env.pop_episodes()

    def close(self) -> None:
        self.env.close()

    def _repeated(self, frames: np.ndarray) -> np.ndarray:
        return np.tile(frames, (1, self.stack, 1, 1))
