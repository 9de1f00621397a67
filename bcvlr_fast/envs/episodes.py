"""Finished episodes and their scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Episode(NamedTuple):
    """A finished episode, for evaluation only."""

    env: int
    """Number of the environment that it ran in."""
    score: float
    """Return, or 1 for success and 0 for failure, depending on the suite."""
    length_steps: int


class Episodes:
    """Accumulates the scores of the episodes running in `num_envs` environments and keeps the finished ones."""

    def __init__(self, num_envs: int) -> None:
        self.score = np.zeros(num_envs)
        """[num_envs] float64: score so far of each running episode."""
        self.length_steps = np.zeros(num_envs, np.int64)
        """[num_envs] int64: steps so far of each running episode."""
        self._finished: list[Episode] = []

    def restart(self, envs: np.ndarray | None = None) -> None:
        """Starts new episodes in all environments or in `envs` [k], and drops their finished ones."""
        envs = np.arange(len(self.score)) if envs is None else envs
        self.score[envs], self.length_steps[envs] = 0, 0
        self._finished = [episode for episode in self._finished if episode.env not in envs]

    def add(self, envs: np.ndarray, ended: np.ndarray, reward: np.ndarray, success: np.ndarray | None = None) -> None:
        """Adds one step of the environments `envs` [k], of which those with `ended` [k] start a new episode.

        A score is the sum of `reward` [k], or, with `success` [k], whether any step succeeded.
        """
        self.score[envs] = self.score[envs] + reward if success is None else np.maximum(self.score[envs], success)
        self.length_steps[envs] += 1
        over = envs[ended]
        for env in over:
            self._finished.append(Episode(int(env), float(self.score[env]), int(self.length_steps[env])))
        self.score[over], self.length_steps[over] = 0, 0

    def pop(self) -> list[Episode]:
        """Returns the episodes that finished since the last call."""
        finished, self._finished = self._finished, []
        return finished
