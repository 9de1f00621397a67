"""Finished episodes and their scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Episode(NamedTuple):
    """A finished episode, for evaluation only."""

    env: int
    score: float
    """Its return, or 1 for success and 0 for none, as the suite is scored."""
    length_steps: int


class Episodes:
    """Counts what the episodes that run in `num_envs` environments come to, and keeps those that are finished."""

    def __init__(self, num_envs: int) -> None:
        self.score = np.zeros(num_envs)
        """[num_envs] so far, of the running ones, as is `length_steps`."""
        self.length_steps = np.zeros(num_envs, np.int64)
        self._finished: list[Episode] = []

    def restart(self, envs: np.ndarray | None = None) -> None:
        """All environments, or `envs` [k], begin episodes anew; what is kept of theirs is dropped."""
        envs = np.arange(len(self.score)) if envs is None else envs
        self.score[envs], self.length_steps[envs] = 0, 0
        self._finished = [episode for episode in self._finished if episode.env not in envs]

    def add(self, envs: np.ndarray, ended: np.ndarray, reward: np.ndarray, success: np.ndarray | None = None) -> None:
        """A step of the environments `envs` [k], of which those `ended` [k] begin anew.

        An episode's score is the sum of `reward` [k], or, where `success` [k] is given, whether there was any.
        """
        self.score[envs] = self.score[envs] + reward if success is None else np.maximum(self.score[envs], success)
        self.length_steps[envs] += 1
        over = envs[ended]
        for env in over:
            self._finished.append(Episode(int(env), float(self.score[env]), int(self.length_steps[env])))
        self.score[over], self.length_steps[over] = 0, 0

    def pop(self) -> list[Episode]:
        """Those finished since the last call."""
        finished, self._finished = self._finished, []
        return finished
