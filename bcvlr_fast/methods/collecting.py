"""Collecting transitions with a policy that explores, and rebuilding them from the log of actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bcvlr_fast.data.collector import Collector
from bcvlr_fast.data.replay import Replay
from bcvlr_fast.envs.budget import Budget
from bcvlr_fast.methods.policy import Actor, Policy
from bcvlr_fast.training.loop import Loop


class PolicyCollector:
    """Rounds of acting: at random in the first round, then sampled from the policy with some random actions.

    Random actions are a function of seed and interactions alone, so a resumed run explores as it would have.
    """

    def __init__(
        self,
        env: Budget,
        replay: Replay,
        policy: Policy,
        generator: torch.Generator,
        *,
        seed: int,
        round_ends: list[int],
        exploration: float = 0.0,
        exploration_steps: int = 1,
    ) -> None:
        """`round_ends` are the interactions after each round; `exploration` is the probability of a random action after
        the first round, and each random action is held for `exploration_steps` steps."""
        self.env, self.replay, self.round_ends = env, replay, round_ends
        self.collector = Collector(env, replay)
        self._actor = Actor(policy, env.num_envs, generator)
        self._seed, self._exploration, self._exploration_steps = seed, exploration, exploration_steps
        self._saved: Mapping[str, Any] | None = None

    @property
    def interactions(self) -> int:
        """Interactions so far."""
        return self.collector.interactions

    def collect(self, loop: Loop, round_: int) -> None:
        """Collects the transitions of a round, counted from 0, from where it was left."""
        end = self.round_ends[round_]
        while self.interactions < end:
            envs = self.collector.envs_to_step(end)
            with loop.spend("collecting", len(envs)):
                self.step(envs, round_)
            loop.safe_point()

    def step(self, envs: np.ndarray, round_: int) -> None:
        """One call of the environments `envs`."""
        explores, actions = self._random_actions(round_)
        if not explores[envs].all():
            chosen = self._actor(self.collector.frames[envs])
            actions[envs[~explores[envs]]] = chosen[~explores[envs]]
        self.collector.step(actions[envs], envs)

    def state_dict(self) -> dict[str, Any]:
        return self.collector.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keeps the state for `rebuild`, which takes as long as collecting did."""
        self._saved = state

    def rebuild(self, loop: Loop, round_is_logged: bool) -> None:
        """Repeats the loaded log of actions, if any, in fresh environments.

        The episodes of the round under way are dropped if `round_is_logged`. Raises OtherFrames where the environments
        do not show the frames that they showed before.
        """
        if self._saved is None:
            return
        with loop.restoring("repeating the logged actions", len(self._saved["actions"]), "interactions") as advance:
            for interactions in self.collector.rebuild(self._saved, self.round_ends):
                advance(interactions)
        if round_is_logged:
            self.env.drop_episodes()
        self._saved = None

    def _random_actions(self, round_: int) -> tuple[np.ndarray, np.ndarray]:
        """(whether each environment explores now [num_envs] bool, its random action [num_envs, ...])."""
        num_envs = self.env.num_envs
        period = self.interactions // (num_envs * self._exploration_steps)
        rng = np.random.default_rng((self._seed, period))
        probability = 1.0 if round_ == 0 else self._exploration
        return rng.random(num_envs) < probability, self.env.spec.actions.draw(rng, num_envs)
