"""A budget of interactions around environments."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.envs import Episode, PixelEnv, Step


class Budget:
    """A `PixelEnv` that counts the interactions of another and refuses more than `interactions`; resets are free."""

    def __init__(self, env: PixelEnv, interactions: int, shows_reward: bool = False) -> None:
        self.env, self.interactions, self.shows_reward = env, interactions, shows_reward
        self.num_envs, self.spec, self.used = env.num_envs, env.spec, 0

    @property
    def left(self) -> int:
        return self.interactions - self.used

    def reset(self) -> np.ndarray:
        return self.env.reset()

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        count = self.num_envs if envs is None else len(envs)
        if count > self.left:
            raise ValueError(f"interactions: expected up to {self.left}, got {count}")
        step = self.env.step(actions, envs)
        self.used += count
        return step

    def pop_episodes(self) -> list[Episode]:
        return self.env.pop_episodes()

    def close(self) -> None:
        self.env.close()
