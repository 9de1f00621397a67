"""Procgen's 16 games (easy) through EnvPool."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.envs import Episode, Step, spec
from bcvlr_fast.envs.episodes import Episodes
from bcvlr_fast.envs.pool import check_order, envpool
from bcvlr_fast.envs.specs import FRAME_SHAPE

NUM_ACTIONS = 15


class Procgen:
    """EnvPool's Procgen with the semantics of `PixelEnv`.

    EnvPool would spend a step on each reset and return a pseudo-transition for it; here an ended
    environment is reset by a call of its own, so that every step is an interaction.
    """

    def __init__(self, game: str, num_envs: int, seed: int, level: int | None = None) -> None:
        self.num_envs, self.spec = num_envs, spec(f"procgen:{game}")
        levels = {} if level is None else {"num_levels": 1, "start_level": level}
        self._pool = envpool("procgen").make_gymnasium(
            f"{game.capitalize()}Easy-v0", num_envs=num_envs, seed=seed, **levels
        )
        self._all = np.arange(num_envs, dtype=np.int32)
        self.last_reward = np.zeros(num_envs)
        """[num_envs] of the newest step: for experts, who learn from it; nothing that learns from videos has it."""
        self._episodes = Episodes(num_envs)

    def reset(self) -> np.ndarray:
        self._episodes.restart()
        return self._start(self._all)

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        ids = self._all if envs is None else np.asarray(envs, np.int32)
        frames, reward, terminated, truncated, info = self._pool.step(self._actions(actions, len(ids)), ids)
        check_order(info["env_id"], ids)
        ended = terminated | truncated
        self.last_reward[ids] = reward
        self._episodes.add(ids, ended, reward)
        first = self._start(ids[ended]) if ended.any() else np.empty((0, *FRAME_SHAPE), np.uint8)
        return Step(frames, ended, first)

    def pop_episodes(self) -> list[Episode]:
        return self._episodes.pop()

    def close(self) -> None:
        self._pool.close()

    def _start(self, ids: np.ndarray) -> np.ndarray:
        frames, info = self._pool.reset(ids)
        check_order(info["env_id"], ids)
        return np.asarray(frames)

    def _actions(self, actions: np.ndarray, count: int) -> np.ndarray:
        return self.spec.actions.check(actions, count).astype(np.int32)
