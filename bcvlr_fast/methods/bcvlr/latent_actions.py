"""Phase 2: predictor p, codebook and world model w, from features of video windows (Eq. 2)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.config import LatentActionsConfig
from bcvlr_fast.data.frames import WindowSampler
from bcvlr_fast.kernels import NearestCode, random_shift, stack_frames
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.latent_actions import Codebook, LatentActionPredictor
from bcvlr_fast.nn.world_model import WorldModel
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.learner import Metrics, Stage


@torch.no_grad()
def frame_features(
    encoder: Encoder,
    frames: Tensor,
    index: Tensor,
    compute: Compute,
    offset: Tensor | None = None,
    pad: int = 0,
) -> Tensor:
    """Features [F * B, C, side, side] of windows, observation by observation, oldest first.

    index [stack - 1 + F, B] int64 tells where in `frames` [N, C, H, W] uint8 their frames lie; f takes stacks of them.
    Each observation is encoded once; f is frozen, so there is no gradient. With `offset` [B, 2], as in `random_shift`,
    all frames of a window are shifted alike.
    """
    stack = encoder.in_channels // frames.shape[1]
    stacks = index.unfold(0, stack, 1)  # [F, B, stack]
    offset = None if offset is None else offset.repeat(len(stacks), 1)
    pixels = random_shift(
        frames, stacks.reshape(-1, stack), offset, pad=pad, dtype=compute.dtype, memory_format=compute.memory_format
    )
    with compute.autocast():
        return cast(Tensor, encoder(pixels))


class Windows(NamedTuple):
    """What p, the codebook and w make of one batch of windows."""

    latent_action: Tensor
    """[B, latent_dim] z, before quantisation."""
    prediction_error: Tensor
    """[] mean squared error of w's next features."""
    code: NearestCode


def predict_next(
    predictor: nn.Module, codebook: Codebook, world_model: WorldModel, features: Tensor, compute: Compute, update: bool
) -> Windows:
    """Eq. 2 without its weights: w(s, z_q) against s_{t+1}, on features frame by frame [F * B, C, side, side]."""
    frames = features.chunk(world_model.window_frames)
    seen = world_model.seen_frames
    with compute.autocast():
        z = predictor(features).float()
        code = codebook(z, update)
        prediction = world_model(stack_frames(features[: seen * len(z)], seen), code.quantized)
    return Windows(z, F.mse_loss(prediction, frames[seen].float()), code)


def copy_error(features: Tensor, world_model: WorldModel) -> Tensor:
    """[] error of the guess that nothing changes: features of t + 1 against those of t."""
    frames = features.chunk(world_model.window_frames)
    seen = world_model.seen_frames
    return F.mse_loss(frames[seen - 1].float(), frames[seen].float())


class LatentActions(Stage):
    """Trains p, the codebook and w on the frozen features of the videos."""

    name = "latent_actions"

    def __init__(
        self,
        config: LatentActionsConfig,
        encoder: Encoder,
        predictor: LatentActionPredictor,
        codebook: Codebook,
        world_model: WorldModel,
        sampler: WindowSampler,
        compute: Compute,
    ) -> None:
        self.config, self.compute = config, compute
        self.encoder, self.predictor, self.codebook, self.world_model = encoder, predictor, codebook, world_model
        self.trained = [*predictor.parameters(), *world_model.parameters()]
        optimizer = compute.optimizer(self.trained, config.learning_rate, config.weight_decay)
        super().__init__(config.updates, {}, {"latent_actions": optimizer}, compute, sampler.generator)
        self.batches = Batches(sampler, config.batch_size, self.together)

    def update(self, number: int) -> Metrics:
        self.predictor.train()
        self.world_model.train()
        features = frame_features(self.encoder, self.batches.frames, self.batches.index[number], self.compute)
        result = predict_next(self.predictor, self.codebook, self.world_model, features, self.compute, update=True)
        loss = result.prediction_error + self.config.commitment * result.code.commitment
        optimizer = self.optimizers["latent_actions"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip)
        optimizer.step()
        return {
            "loss": loss,
            "prediction_error": result.prediction_error,
            "copy_error": copy_error(features, self.world_model),
            "commitment": result.code.commitment,
            "perplexity": result.code.perplexity.mean(),
            "grad_norm": norm,
        }
