"""The collector: steps environments into a replay and logs every action."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bcvlr_fast.data.replay import Replay
from bcvlr_fast.envs.budget import Budget


class Collector:
    """Steps environments into a replay. Its state is the log of actions, from which both can be rebuilt."""

    def __init__(self, env: Budget, replay: Replay) -> None:
        self.env, self.replay = env, replay
        space = env.spec.actions
        actions = space.empty(env.left)
        self._actions = actions.astype(np.uint8) if not space.continuous and space.size <= 256 else actions
        self.frames = env.reset()
        """[num_envs, stack * C, H, W] uint8: the next observations of the policy."""
        self._newest = slice(-env.spec.frame_shape[0], None)  # the channels of a stack's last frame
        self._all = np.arange(env.num_envs)

    @property
    def interactions(self) -> int:
        """Interactions so far."""
        return self.env.used

    def envs_to_step(self, limit: int) -> np.ndarray:
        """The environments of the next call: all, or fewer if fewer interactions remain until `limit` in total."""
        return self._all[: limit - self.env.used]

    def step(self, actions: np.ndarray, envs: np.ndarray) -> None:
        """One interaction in each environment of `envs`, with `actions` [len(envs), ...]."""
        begin = self.env.used
        step = self.env.step(actions, envs)
        self._actions[begin : self.env.used] = actions
        self.replay.append(envs, self.frames[envs, self._newest], actions)
        if step.ended.any():
            self.replay.append(envs[step.ended], step.frames[step.ended, self._newest], None, ends=True)
        self.frames[envs] = step.next_frames()

    def state_dict(self) -> dict[str, Any]:
        """The log of actions, and a digest of the frames that it led to."""
        return {"actions": self._actions[: self.env.used].copy(), "frames": self._digest()}

    def rebuild(self, state: Mapping[str, Any], round_ends: list[int]) -> Iterator[int]:
        """Repeats the logged actions in new environments; yields the interactions of each call.

        The calls are the same as the first time: shorter at the end of each round that the environments do not divide.
        Episodes that ended before the last round are dropped. Raises OtherFrames at the end if the environments do not
        show the same frames as before.
        """
        actions = np.asarray(state["actions"])
        ends = iter(round_ends)
        end = next(ends)
        while self.env.used < len(actions):
            if self.env.used == end:
                self.env.drop_episodes()
                end = next(ends)
            envs = self.envs_to_step(min(end, len(actions)))
            self.step(actions[self.env.used : self.env.used + len(envs)], envs)
            yield len(envs)
        if self._digest() != state["frames"]:
            raise OtherFrames

    def _digest(self) -> str:
        return hashlib.sha256(self.frames.tobytes()).hexdigest()


class OtherFrames(Exception):
    """The environments show other frames than before after the same actions."""
