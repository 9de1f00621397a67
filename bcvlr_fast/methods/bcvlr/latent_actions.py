"""Phase 2: the latent-action predictor p, the codebook and the world model w (Eq. 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.kernels import NearestCode, stack_frames
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import LatentActionsConfig
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.learner import Learner, Metrics


class LatentActions(Learner):
    """Trains p, the codebook and w on the frozen features of the videos."""

    name = "latent_actions"

    def __init__(self, config: LatentActionsConfig, agent: Agent, sampler: WindowSampler) -> None:
        self.config, self.agent = config, agent
        trained = [*agent.predictor.parameters(), *agent.world_model.parameters()]
        super().__init__(
            config.updates,
            {"latent_actions": agent.compute.optimizer(trained, config.learning_rate, config.weight_decay)},
            agent.compute,
            sampler.generator,
            train_mode=(agent.predictor, agent.world_model),
        )
        self.batches = Batches(sampler, config.batch_size, self.together)

    def update(self, number: int) -> Metrics:
        agent = self.agent
        features = agent.frame_features(self.batches.frames, self.batches.index[number])
        code = agent.codebook.quantize_and_move(agent.latent_action(features))
        loss, error = latent_action_loss(agent, features, code, commitment=self.config.commitment)
        norm = self.descend(loss, self.config.grad_clip)
        assert norm is not None
        return {
            "loss": loss,
            "prediction_error": error,
            "copy_error": copy_error(agent, features),
            "commitment": code.commitment,
            "perplexity": code.perplexity.mean(),
            "grad_norm": norm,
        }


def latent_action_loss(
    agent: Agent, features: Tensor, code: NearestCode, *, commitment: float
) -> tuple[Tensor, Tensor]:
    """Eq. 2: L_la = MSE(w(s_t, z_q), s_{t+1}) + commitment * MSE(z, sg[z_q]); returns (L_la, its first term), both [].

    s are features of a window frame by frame, [F * B, C, side, side]; `code` holds z = p(s) quantized to z_q, with a
    straight-through gradient, and its commitment term. The codebook moves by averages, not by this loss.
    """
    error = prediction_error(agent, features, code)
    return error + commitment * code.commitment, error


def prediction_error(agent: Agent, features: Tensor, code: NearestCode) -> Tensor:
    """MSE(w(s_t, z_q), s_{t+1}) []; see `latent_action_loss`."""
    frames, context = features.chunk(agent.window.observations), agent.window.past + 1
    with agent.compute.autocast():
        prediction = agent.world_model(stack_frames(features[: context * len(frames[0])], context), code.quantized)
    return F.mse_loss(prediction, frames[context].float())


def copy_error(agent: Agent, features: Tensor) -> Tensor:
    """MSE(s_t, s_{t+1}) []: the error of predicting that nothing changes."""
    frames, past = features.chunk(agent.window.observations), agent.window.past
    return F.mse_loss(frames[past].float(), frames[past + 1].float())
