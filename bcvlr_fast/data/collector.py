"""The collector: steps environments into the replay."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.data.replay import Replay
from bcvlr_fast.envs import PixelEnv, Step


class Collector:
    """Steps the environments into the replay, and logs every action, so that a replay of the log restores both."""

    def __init__(self, env: PixelEnv, replay: Replay, interactions: int) -> None:
        self.env, self.replay = env, replay
        self.interactions = 0
        actions = env.spec.actions.empty(interactions)
        small = not env.spec.actions.continuous and env.spec.actions.size <= 256
        self.actions = actions.astype(np.uint8) if small else actions
        self.frames = env.reset()  # [num_envs, stack * C, H, W] uint8, what the policy sees next
        self._newest = slice(-env.spec.frame_shape[0], None)  # the channels of a stack's last frame
        self._all = np.arange(env.num_envs)

    def taken(self) -> np.ndarray:
        """[interactions, ...]: every action so far, in order."""
        return self.actions[: self.interactions]

    def envs_to_step(self, limit: int) -> np.ndarray:
        """The environments of the next call: all of them, fewer where `limit` interactions in all are near."""
        return self._all[: limit - self.interactions]

    def step(self, actions: np.ndarray, envs: np.ndarray) -> None:
        """One interaction in each environment of `envs`."""
        step = self.env.step(actions, envs)
        self.actions[self.interactions : self.interactions + len(envs)] = actions
        self.interactions += len(envs)
        self._store(step, actions, envs)

    def _store(self, step: Step, actions: np.ndarray, envs: np.ndarray) -> None:
        self.replay.append(envs, self.frames[envs, self._newest], actions)
        if step.ended.any():
            self.replay.append(envs[step.ended], step.frames[step.ended, self._newest], None, ends=True)
        self.frames[envs] = step.next_frames()
