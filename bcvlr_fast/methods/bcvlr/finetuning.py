"""Fine-tuning of p together with the action decoder d on own transitions (Eq. 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcvlr_fast.data.replay import ReplaySampler
from bcvlr_fast.kernels import NearestCode
from bcvlr_fast.methods.actions import action_loss, agreement, agreement_name
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.latent_actions import prediction_error
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.learner import Learner, Metrics


class Finetuning(Learner):
    """Trains p and d on own transitions, and w where it has a learning rate."""

    name = "finetuning"

    def __init__(self, config: Config, agent: Agent, sampler: ReplaySampler) -> None:
        online = config.online
        self.config, self.agent, self.sampler = config, agent, sampler
        optimizer, learns_world = agent.compute.optimizer, online.world_model_learning_rate > 0
        agent.world_model.requires_grad_(learns_world)
        optimizers = {
            "predictor": optimizer(agent.predictor.parameters(), online.predictor_learning_rate),
            "decoder": optimizer(agent.decoder.parameters(), online.decoder_learning_rate),
        }
        if learns_world:
            world = optimizer(agent.world_model.parameters(), online.world_model_learning_rate)
            optimizers["world_model"] = world
        train_mode: list[nn.Module] = [agent.predictor]
        if online.regularisation and online.world_model_norm == "train":
            train_mode.append(agent.world_model)
        super().__init__(online.finetune_updates, optimizers, agent.compute, sampler.generator, train_mode=train_mode)
        self.batches = Batches(sampler, online.finetune_batch_size, self.together)

    def update(self, number: int) -> Metrics:
        agent, window, pad = self.agent, self.sampler.window, self.config.online.finetune_shift_pad
        index = self.batches.index[number]  # [F, B]
        actions = self.sampler.action[index[window.past + window.stack - 1]]
        offset = self.sampler.draw_shifts(index.shape[1], pad) if pad else None
        features = agent.frame_features(self.batches.frames, index, offset, pad)
        z = agent.latent_action(features)
        beta = self.config.online.regularisation
        code = agent.codebook.quantize_and_move(z) if beta else None
        loss = finetuning_loss(
            agent, features, z, code, actions, beta=beta, commitment=self.config.latent_actions.commitment
        )
        self.descend(loss.total)
        return {
            "loss": loss.total,
            "action_loss": loss.action,
            "regularisation": loss.regularization,
            agreement_name(agent.spec.actions.continuous): agreement(loss.decoded.detach(), actions),
        }


class FinetuningLoss(NamedTuple):
    """Eq. 3 on one batch of own transitions."""

    total: Tensor
    action: Tensor
    regularization: Tensor
    decoded: Tensor
    """[B, A] float32: d(z)."""


def finetuning_loss(
    agent: Agent,
    features: Tensor,
    z: Tensor,
    code: NearestCode | None,
    actions: Tensor,
    *,
    beta: float,
    commitment: float,
) -> FinetuningLoss:
    """Eq. 3: L_ft = l(d(z), a) + beta * [MSE(w(s_t, z_q), s_{t+1}) + commitment * MSE(z, sg[z_q])].

    l is the cross-entropy of discrete actions a [B] int64 or the mean squared error of continuous ones [B, A] float32.
    s are features of own windows frame by frame, z = p(s) [B, latent_dim], and `code` holds z quantized to z_q. Without
    a code, which beta = 0 allows, the second term is zero and not computed.
    """
    if code is None:
        regularization = features.new_zeros((), dtype=torch.float32)
    else:
        regularization = prediction_error(agent, features, code) + commitment * code.commitment
    decoded = agent.decode(z)
    action = action_loss(decoded, actions)
    return FinetuningLoss(action + beta * regularization, action, regularization, decoded)


@torch.no_grad()
def decoder_agreement(agent: Agent, sampler: ReplaySampler, batch_size: int) -> tuple[float, float]:
    """(agreement of d(p(window)) with the actions of own transitions, agreement of one constant answer).

    The transitions are held out as long as d has not trained on them.
    """
    centers = sampler.centers[sampler.draw_rows((batch_size,))]
    actions = sampler.action[centers]
    decoded = agent.decode(agent.latent_action(agent.frame_features(*sampler.take(centers))))
    constant = 0.0 if actions.is_floating_point() else float(actions.bincount().max() / len(actions))
    return float(agreement(decoded, actions)), constant
