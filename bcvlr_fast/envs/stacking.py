"""Frame stacks: what a policy sees where one frame does not tell velocities."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.envs import Episode, PixelEnv, Step


class Stacked:
    """A `PixelEnv` whose frames are the newest `stack` of another's, [k, stack * C, H, W], oldest first; at the start
    of an episode all are its first."""

    def __init__(self, env: PixelEnv, stack: int) -> None:
        self.env, self.stack = env, stack
        self.num_envs, self.spec = env.num_envs, env.spec
        self._channels = env.spec.frame_shape[0]
        self._seen = np.empty((0,), np.uint8)  # [num_envs, stack * C, H, W]

    def reset(self) -> np.ndarray:
        self._seen = self._filled(self.env.reset())
        return self._seen.copy()

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        step = self.env.step(actions, envs)
        rows = np.arange(self.num_envs) if envs is None else envs
        frames = np.concatenate([self._seen[rows, self._channels :], step.frames], axis=1)
        first = self._filled(step.first_frames)
        self._seen[rows] = frames
        self._seen[rows[step.ended]] = first
        return Step(frames, step.ended, first)

    def pop_episodes(self) -> list[Episode]:
        return self.env.pop_episodes()

    def close(self) -> None:
        self.env.close()

    def _filled(self, frames: np.ndarray) -> np.ndarray:
        return np.tile(frames, (1, self.stack, 1, 1))
