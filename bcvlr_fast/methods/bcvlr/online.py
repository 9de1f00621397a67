"""Phase 4: Algorithm 1's loop of acting, fine-tuning p and d (Eq. 3), and cloning pi again (Eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bcvlr_fast.data.replay import Replay, ReplaySampler
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs.budget import Budget
from bcvlr_fast.methods.actions import agreement_name
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.finetuning import Finetuning, decoder_agreement
from bcvlr_fast.methods.collecting import PolicyCollector
from bcvlr_fast.methods.policy import Policy
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
            decoded_weight=config.final.decoded_weight if config.final.updates else 0.0,
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
                self.finetuning.end_round()
                self.part = "clone"
            if self.part == "clone":
                last = self.round == rounds - 1
                self.cloning.anneals = self.config.online.clone_anneal and last
                self.cloning.begin_round(self.round + 1)
                loop.train(self.cloning, f"{title} clone")
                self.cloning.end_round()
            self.part = "collect"
            self.round += 1

    def collect(self, loop: Loop) -> None:
        """Collects this round's transitions; offline there are none to collect."""

    def state_dict(self) -> dict[str, Any]:
        learners = {learner.name: learner.state_dict() for learner in (self.finetuning, self.cloning)}
        return {"round": self.round, "part": self.part, **learners}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.round, self.part = state["round"], state["part"]
        for learner in (self.finetuning, self.cloning):
            learner.load_state_dict(state[learner.name])

    def _prepare_finetuning(self) -> bool:
        """Sets fine-tuning to this round's transitions; False where no episode is long enough for a window."""
        updates = self.config.online.finetune_updates_for(int(self.replay.acted.sum()))
        self.finetuning.begin_round(self.round, updates)
        return self.finetuning.sampler.refresh()


class Online(Rounds):
    """Rounds in environments. Actions are random in the first round, then sampled from the policy."""

    label = "online"

    def __init__(self, config: Config, agent: Agent, policy: Policy, env: Budget, videos: WindowSampler) -> None:
        online = config.online
        max_frames = 2 * online.interactions  # if every episode had one step
        replay = Replay(min(online.capacity, max_frames), env.num_envs, env.spec, agent.compute.device)
        super().__init__(config, agent, replay, videos)
        self.env = env
        self.collecting = PolicyCollector(
            env,
            replay,
            policy,
            videos.generator,
            seed=config.seed,
            round_ends=[online.round_end(number) for number in range(online.rounds)],
            exploration=online.exploration,
            exploration_steps=online.exploration_steps,
        )

    def run(self, loop: Loop) -> None:
        self.collecting.rebuild(loop, round_is_logged=self.part != "collect")
        super().run(loop)

    def collect(self, loop: Loop) -> None:
        self.collecting.collect(loop, self.round)
        loop.collected(self.round, self.collecting.interactions, self.replay, self._decoder_metrics(loop))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "collector": self.collecting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.collecting.load_state_dict(state["collector"])

    def _decoder_metrics(self, loop: Loop) -> dict[str, float]:
        """How well d decodes the actions of this round's transitions, before it trains on them."""
        sampler = ReplaySampler(self.replay, self.agent.window, self._metrics_generator())
        begin = self.round * self.config.online.round_interactions
        newest = (self.collecting.interactions - begin) // self.env.num_envs
        if self.round == 0 or not sampler.refresh(newest):
            return {}
        agreement, constant = decoder_agreement(self.agent, sampler, _CHECKED_TRANSITIONS)
        name = agreement_name(self.env.spec.actions.continuous)
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
