"""Phase 4: act, fine-tune p with the action decoder d on own transitions (Eq. 3), clone pi again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bcvlr_fast.agent import Actor, Agent
from bcvlr_fast.batches import Batches
from bcvlr_fast.config import Config
from bcvlr_fast.envs import PixelEnv, Step
from bcvlr_fast.frames import WindowSampler
from bcvlr_fast.latent_actions import frame_features, predict_next
from bcvlr_fast.policy import Cloning, variance_explained
from bcvlr_fast.replay import Replay, ReplaySampler
from bcvlr_fast.stage import Metrics, Stage


class FinetuningLoss(NamedTuple):
    """Eq. 3 on one batch of own transitions."""

    total: Tensor
    action: Tensor
    regularisation: Tensor
    agreement: Tensor
    """Accuracy of decoded actions, or, of continuous ones, their share of the variance explained."""


class Finetuning(Stage):
    """Trains p and d on own transitions, regularised by the error of w, whose weights may stay or learn too."""

    name = "finetuning"

    def __init__(
        self, config: Config, agent: Agent, optimizers: dict[str, torch.optim.Optimizer], sampler: ReplaySampler
    ) -> None:
        super().__init__(config.online.finetune_updates, {}, optimizers, agent.compute, sampler.generator)
        self.config, self.agent, self.sampler = config, agent, sampler
        self.batches = Batches(sampler, config.online.finetune_batch_size, self.together)

    def update(self, number: int) -> Metrics:
        loss = self.loss(self.batches.index[number])
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {
            "loss": loss.total,
            "action_loss": loss.action,
            "regularisation": loss.regularisation,
            agent_agreement(self.agent): loss.agreement,
        }

    def loss(self, index: Tensor) -> FinetuningLoss:
        """CE(d(z), a), or the mean squared error of continuous actions, + beta * (world-model error + commitment).

        For the windows `index` [F, B] of the replay.
        """
        agent, online = self.agent, self.config.online
        agent.predictor.train()
        actions = self.sampler.action[index[self.sampler.past + self.sampler.stack - 1]]
        pad = online.finetune_shift_pad
        offset = self.sampler.draw_shifts(index.shape[1], pad) if pad else None
        features = frame_features(agent.encoder, self.sampler.store.frames, index, agent.compute, offset, pad)
        z, regularisation = self._latent_action(features)
        with agent.compute.autocast():
            decoded = agent.decoder(z).float()
        action = (F.mse_loss if agent.spec.actions.continuous else F.cross_entropy)(decoded, actions)
        total = action + online.regularisation * regularisation
        return FinetuningLoss(total, action, regularisation, agreement(decoded.detach(), actions))

    def _latent_action(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(z [B, latent_dim], world-model error + commitment []); the latter is zero where it has no weight."""
        agent, online = self.agent, self.config.online
        if online.regularisation == 0:
            with agent.compute.autocast():
                return agent.predictor(features).float(), features.new_zeros((), dtype=torch.float32)
        agent.world_model.train(online.world_model_norm == "train")
        result = predict_next(agent.predictor, agent.codebook, agent.world_model, features, agent.compute, update=True)
        commitment = self.config.latent_actions.commitment * result.code.commitment
        return result.latent_action, result.prediction_error + commitment


def agreement(decoded: Tensor, actions: Tensor) -> Tensor:
    """[]: the share of actions [B] int64 that logits [B, A] name; of actions [B, A] float32, the share of their
    variance that numbers [B, A] explain."""
    if actions.is_floating_point():
        return variance_explained(decoded, actions)
    return (decoded.argmax(dim=1) == actions).float().mean()


def agent_agreement(agent: Agent) -> str:
    """What `agreement` is called for the agent's actions."""
    return "variance_explained" if agent.spec.actions.continuous else "accuracy"


@torch.no_grad()
def decoder_agreement(agent: Agent, sampler: ReplaySampler, batch_size: int) -> tuple[float, float]:
    """(agreement of d(p(window)) with the actions of own transitions, what one answer to all would get).

    Held out as long as d has not trained on these transitions.
    """
    agent.eval()
    centres = sampler.centres[sampler.draw_rows((batch_size,))]
    actions = sampler.action[centres]
    features = frame_features(agent.encoder, *sampler.take(centres), agent.compute)
    with agent.compute.autocast():
        decoded = agent.decoder(agent.predictor(features)).float()
    same = 0.0 if actions.is_floating_point() else float(actions.bincount().max() / len(actions))
    return float(agreement(decoded, actions)), same


class Collector:
    """Steps the environments into the replay, and logs every action, so that a replay of the log restores both."""

    def __init__(self, env: PixelEnv, replay: Replay, interactions: int) -> None:
        self.env, self.replay = env, replay
        self.interactions = 0
        actions = env.spec.actions.empty(interactions)
        small = not env.spec.actions.continuous and env.spec.actions.size <= 256
        self.actions = actions.astype(np.uint8) if small else actions
        self.frames = env.reset()  # [num_envs, stack * C, H, W] uint8, what the policy sees next
        self._newest = slice(-env.spec.frame_shape[0], None)  # the channels of a stack's last frame
        self._all = np.arange(env.num_envs)

    def taken(self) -> np.ndarray:
        """[interactions, ...]: every action so far, in order."""
        return self.actions[: self.interactions]

    def envs_to_step(self, limit: int) -> np.ndarray:
        """The environments of the next call: all of them, fewer where `limit` interactions in all are near."""
        return self._all[: limit - self.interactions]

    def step(self, actions: np.ndarray, envs: np.ndarray) -> None:
        """One interaction in each environment of `envs`."""
        step = self.env.step(actions, envs)
        self.actions[self.interactions : self.interactions + len(envs)] = actions
        self.interactions += len(envs)
        self._store(step, actions, envs)

    def _store(self, step: Step, actions: np.ndarray, envs: np.ndarray) -> None:
        self.replay.append(envs, self.frames[envs, self._newest], actions)
        if step.ended.any():
            self.replay.append(envs[step.ended], step.frames[step.ended, self._newest], None, ends=True)
        self.frames[envs] = step.next_frames()


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
