"""Fine-tuning of p and d on own transitions (Eq. 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bcvlr_fast.data.replay import ReplaySampler
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import variance_explained
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.latent_actions import frame_features, predict_next
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.learner import Metrics, Stage


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
