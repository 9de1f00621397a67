"""Phase 4: act, fine-tune p with the action decoder d on own transitions (Eq. 3), clone pi again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from bcvlr_fast.data.collector import Collector
from bcvlr_fast.data.frames import WindowSampler
from bcvlr_fast.data.replay import Replay, ReplaySampler
from bcvlr_fast.envs import PixelEnv
from bcvlr_fast.methods.bcvlr.agent import Actor, Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.finetuning import Finetuning


class Decoding:
    """What is learned from transitions with actions: p and d on them, then pi on the videos again.

    The optimisers live through all rounds; `round` counts finished ones.
    """

    def __init__(
        self, config: Config, agent: Agent, replay: Replay, videos: WindowSampler, generator: torch.Generator
    ) -> None:
        online = config.online
        self.config, self.agent, self.videos, self.generator = config, agent, videos, generator
        self.replay = replay
        self.round = 0
        learns_world = online.world_model_learning_rate > 0
        agent.world_model.requires_grad_(learns_world)
        optimizer = agent.compute.optimizer
        self.optimizers = {
            "predictor": optimizer(agent.predictor.parameters(), online.predictor_learning_rate),
            "decoder": optimizer(agent.decoder.parameters(), online.decoder_learning_rate),
            "policy": optimizer(agent.policy.parameters(), online.clone_learning_rate),
        }
        learning = {name: self.optimizers[name] for name in ("predictor", "decoder")}
        if learns_world:
            world = optimizer(agent.world_model.parameters(), online.world_model_learning_rate)
            self.optimizers["world_model"] = learning["world_model"] = world
        own = ReplaySampler(replay, *self._reach, generator, config.frame_stack)
        self.finetuning = Finetuning(config, agent, learning, own)
        self.cloning = Cloning(
            online.clone_updates,
            online.clone_batch_size,
            config.policy,
            self.optimizers["policy"],
            agent.encoder,
            agent.predictor,
            agent.policy,
            videos,
            agent.compute,
        )

    @property
    def rounds(self) -> int:
        """Rounds of the whole phase."""
        return self.config.online.rounds

    def begin_finetuning(self) -> bool:
        """Makes `finetuning` ready for this round; False where no episode is long enough for a window."""
        online, kept = self.config.online, int(self.replay.acted.sum())
        self.finetuning.restart(self.round)
        self.finetuning.updates = online.finetune_updates_for(kept)
        return self.finetuning.sampler.refresh()

    def begin_cloning(self) -> None:
        """Makes `cloning` ready for this round; the rounds of its draws follow that of the pre-imitation."""
        self.cloning.restart(self.round + 1)
        self.cloning.anneals = self.config.online.clone_anneal and self.round == self.rounds - 1

    @property
    def _reach(self) -> tuple[int, int]:
        """Frames of a window before and after o_t."""
        return self.config.latent_actions.past_frames, self.config.latent_actions.future_frames


class Online(Decoding):
    """Phase 4 in the environments. A round is: collect (at random in the first), fine-tune, clone."""

    def __init__(
        self,
        config: Config,
        agent: Agent,
        env: PixelEnv,
        videos: WindowSampler,
        generator: torch.Generator,
    ) -> None:
        most = 2 * config.online.interactions  # frames, if every episode were of one step
        replay = Replay(min(config.online.capacity, most), env.num_envs, env.spec, agent.compute.device)
        super().__init__(config, agent, replay, videos, generator)
        self.env = env
        self.collector = Collector(env, replay, config.online.interactions)
        self._actor = Actor(agent, env.num_envs, generator)

    @property
    def round_end(self) -> int:
        """Interactions after this round's collection."""
        return self.config.online.round_end(self.round)

    def replay_log(self, actions: np.ndarray) -> Iterator[int]:
        """Brings fresh environments and an empty replay to the state after `actions` [interactions] were taken, a call
        of the environments at a time; gives the interactions of each.

        The calls are those of collecting: short ones at the end of each round where the environments do not
        divide it. Scores of the rounds before the last are dropped.
        """
        collector, round_end = self.collector, self.config.online.round_end
        number = 0
        while collector.interactions < len(actions):
            if collector.interactions == round_end(number):
                self.env.pop_episodes()
                number += 1
            envs = collector.envs_to_step(min(round_end(number), len(actions)))
            collector.step(actions[collector.interactions : collector.interactions + len(envs)], envs)
            yield len(envs)

    def collect_step(self) -> None:
        """One call of the environments: at random in the first round, then sampled from the policy."""
        envs = self.collector.envs_to_step(self.round_end)
        explores, actions = self._exploration()
        if not explores[envs].all():
            chosen = self._actor(self.collector.frames[envs])
            actions[envs[~explores[envs]]] = chosen[~explores[envs]]
        self.collector.step(actions[envs], envs)

    def _exploration(self) -> tuple[np.ndarray, np.ndarray]:
        """(whether each environment explores now [num_envs] bool, its random action [num_envs, ...]).

        A function of seed and interactions alone, so that a resumed run goes on with the same ones.
        """
        online, num_envs = self.config.online, self.env.num_envs
        held = self.collector.interactions // (num_envs * online.exploration_steps)
        rng = np.random.default_rng((self.config.seed, held))
        share = 1.0 if self.round == 0 else online.exploration
        return rng.random(num_envs) < share, self.agent.spec.actions.draw(rng, num_envs)

    def newest_windows(self, generator: torch.Generator) -> ReplaySampler | None:
        """Windows of the newest round's transitions, on which d has not trained before fine-tuning."""
        round_start = self.round * self.config.online.round_interactions
        sampler = ReplaySampler(self.collector.replay, *self._reach, generator, self.config.frame_stack)
        newest = (self.collector.interactions - round_start) // self.env.num_envs
        return sampler if sampler.refresh(newest) else None
