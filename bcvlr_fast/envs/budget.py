"""A budget of interactions: counts the steps of an environment and decides whether rewards are visible."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.envs.interface import PixelEnv, Step


class Budget:
    """The steps of a `PixelEnv`, of which it allows `interactions`. Resets are free.

    Rewards are hidden unless `shows_reward`, and scores of episodes always.
    """

    def __init__(self, env: PixelEnv, interactions: int, shows_reward: bool = False) -> None:
        self._env, self.interactions, self.shows_reward = env, interactions, shows_reward
        self.num_envs, self.spec = env.num_envs, env.spec
        self.used = 0
        """Interactions so far: steps summed over environments."""

    @property
    def left(self) -> int:
        """Interactions that remain."""
        return self.interactions - self.used

    @property
    def last_reward(self) -> np.ndarray:
        """Rewards as in `PixelEnv`. Raises RuntimeError unless the budget shows rewards."""
        if not self.shows_reward:
            raise RuntimeError(
                "last_reward: this environment is reward-free (a method that may see rewards asks for "
                "Budget(..., shows_reward=True))"
            )
        return self._env.last_reward

    def reset(self) -> np.ndarray:
        return self._env.reset()

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        """Steps as a `PixelEnv`. Raises ValueError, before the step, if it would exceed the budget."""
        count = self.num_envs if envs is None else len(envs)
        if count > self.left:
            raise ValueError(f"step: expected at most {self.left} interactions, all that is left, got {count}")
        step = self._env.step(actions, envs)
        self.used += count
        return step

    def drop_episodes(self) -> None:
        """Forgets the episodes that have ended; their scores are for whoever made the environment."""
        self._env.pop_episodes()

    def close(self) -> None:
        self._env.close()
