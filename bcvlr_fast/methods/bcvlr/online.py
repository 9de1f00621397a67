"""Phase 4: Algorithm 1's loop of acting, fine-tuning p and d (Eq. 3), and cloning pi again (Eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bcvlr_fast.data.collector import Collector
from bcvlr_fast.data.replay import Replay, ReplaySampler
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs.budget import Budget
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.finetuning import Finetuning, agreement_name, decoder_agreement
from bcvlr_fast.methods.policy import Actor, Policy
from bcvlr_fast.training.loop import Loop

_CHECKED_TRANSITIONS = 1024
_CHECKED_ROUND = 3
"""The round, counted from 0, whose decoder accuracy is checked; the last round is checked as well."""


class Rounds:
    """Rounds of fine-tuning p and d on transitions with actions, then cloning pi on the videos.

    `round` counts finished rounds, and `part` is the current part of a round. The optimizers persist across rounds.
    """

    label = "offline"

    def __init__(self, config: Config, agent: Agent, replay: Replay, videos: WindowSampler) -> None:
        self.config, self.agent, self.replay = config, agent, replay
        self.round, self.part = 0, "collect"
        online = config.online
        self.finetuning = Finetuning(config, agent, ReplaySampler(replay, agent.window, videos.generator))
        self.cloning = Cloning(
            config.policy,
            agent,
            videos,
            updates=online.clone_updates,
            batch_size=online.clone_batch_size,
            learning_rate=online.clone_learning_rate,
        )

    def run(self, loop: Loop) -> None:
        """Algorithm 1: every round collects transitions, fine-tunes p and d on them, and clones pi."""
        rounds = self.config.online.rounds
        while self.round < rounds:
            title = f"4/4 {self.label} {self.round + 1}/{rounds}"
            if self.part == "collect":
                self.collect(loop)
                self.part = "finetune"
            if self.part == "finetune":
                if self._prepare_finetuning():
                    loop.train(self.finetuning, f"{title} fine-tune")
                self.part, self.finetuning.done = "clone", 0
            if self.part == "clone":
                last = self.round == rounds - 1
                self.cloning.begin_round(self.round + 1, anneals=self.config.online.clone_anneal and last)
                loop.train(self.cloning, f"{title} clone")
            self.part, self.cloning.done = "collect", 0
            self.round += 1

    def collect(self, loop: Loop) -> None:
        """Collects the transitions of the round. Offline, all transitions exist from the start."""

    def state_dict(self) -> dict[str, Any]:
        learners = {learner.name: learner.state_dict() for learner in (self.finetuning, self.cloning)}
        return {"round": self.round, "part": self.part, **learners}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.round, self.part = state["round"], state["part"]
        for learner in (self.finetuning, self.cloning):
            learner.load_state_dict(state[learner.name])

    def _prepare_finetuning(self) -> bool:
        """Sets fine-tuning to this round's transitions; False where no episode is long enough for a window."""
        learner = self.finetuning
        learner.round = self.round
        learner.updates = self.config.online.finetune_updates_for(int(self.replay.acted.sum()))
        return learner.sampler.refresh()


class Online(Rounds):
    """Rounds in environments. Actions are random in the first round, then sampled from the policy."""

    label = "online"

    def __init__(self, config: Config, agent: Agent, policy: Policy, env: Budget, videos: WindowSampler) -> None:
        max_frames = 2 * config.online.interactions  # if every episode had one step
        replay = Replay(min(config.online.capacity, max_frames), env.num_envs, env.spec, agent.compute.device)
        super().__init__(config, agent, replay, videos)
        self.env = env
        self.collector = Collector(env, replay)
        self._actor = Actor(policy, env.num_envs, videos.generator)
        self._saved_collector: Mapping[str, Any] | None = None

    def run(self, loop: Loop) -> None:
        if self._saved_collector is not None:
            self._rebuild(loop, self._saved_collector)
        super().run(loop)

    def collect(self, loop: Loop) -> None:
        end = self.config.online.round_end(self.round)
        while self.collector.interactions < end:
            envs = self.collector.envs_to_step(end)
            with loop.spend("collecting", len(envs)):
                self._step(envs)
            loop.safe_point()
        loop.collected(self.round, self.collector.interactions, self.replay, self._decoder_metrics(loop))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "collector": self.collector.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._saved_collector = state["collector"]

    def _rebuild(self, loop: Loop, saved: Mapping[str, Any]) -> None:
        """Restores the environments and the replay by repeating the saved log of actions."""
        online = self.config.online
        round_ends = [online.round_end(number) for number in range(online.rounds)]
        with loop.restoring("repeating the logged actions", len(saved["actions"]), "interactions") as advance:
            for interactions in self.collector.rebuild(saved, round_ends):
                advance(interactions)
        if self.part != "collect":  # this round's episodes are logged already
            self.env.pop_episodes()

    def _step(self, envs: np.ndarray) -> None:
        """One call of the environments `envs`."""
        explores, actions = self._exploration()
        if not explores[envs].all():
            chosen = self._actor(self.collector.frames[envs])
            actions[envs[~explores[envs]]] = chosen[~explores[envs]]
        self.collector.step(actions[envs], envs)

    def _exploration(self) -> tuple[np.ndarray, np.ndarray]:
        """(whether each environment explores now [num_envs] bool, its random action [num_envs, ...]).

        Both depend only on the seed and the number of interactions, so a resumed run explores identically.
        """
        online, num_envs = self.config.online, self.env.num_envs
        period = self.collector.interactions // (num_envs * online.exploration_steps)
        rng = np.random.default_rng((self.config.seed, period))
        probability = 1.0 if self.round == 0 else online.exploration
        return rng.random(num_envs) < probability, self.env.spec.actions.draw(rng, num_envs)

    def _decoder_metrics(self, loop: Loop) -> dict[str, float]:
        """How well d decodes the actions of this round's transitions, before it trains on them."""
        sampler = ReplaySampler(self.replay, self.agent.window, self._metrics_generator())
        begin = self.round * self.config.online.round_interactions
        newest = (self.collector.interactions - begin) // self.env.num_envs
        if self.round == 0 or not sampler.refresh(newest):
            return {}
        agreement, constant = decoder_agreement(self.agent, sampler, _CHECKED_TRANSITIONS)
        name = agreement_name(self.agent)
        if agreement <= constant and self.round in (_CHECKED_ROUND, self.config.online.rounds - 1):
            loop.warn(
                [
                    f"decoder {name.replace('_', ' ')} on own transitions: {agreement:.0%} "
                    f"(one constant action: {constant:.0%})"
                ]
            )
        return {f"decoder_{name}": agreement, f"{name}_of_one_answer": constant}

    def _metrics_generator(self) -> torch.Generator:
        """A generator for metrics alone: drawing from it leaves training unchanged."""
        return torch.Generator(self.agent.compute.device).manual_seed(self.config.seed + 1)
