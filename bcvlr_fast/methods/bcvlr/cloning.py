"""Phase 3, and again in every online round: the latent policy pi clones latent actions (Eq. 4)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.data.frames import WindowSampler
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.methods.bcvlr.config import PolicyConfig
from bcvlr_fast.methods.bcvlr.latent_actions import frame_features
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.policy import LatentPolicy
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.compute import Compute, set_learning_rate
from bcvlr_fast.training.learner import MOST_TOGETHER, Metrics, Stage

_LABEL_BATCH = 512


def variance_explained(guess: Tensor, truth: Tensor) -> Tensor:
    """[]: the share of the variance of truth [B, A] that guess [B, A] explains."""
    return 1 - F.mse_loss(guess, truth) / truth.var(dim=0).mean()


class Cloning(Stage):
    """Trains pi on the videos against the latent actions of p, which stays as it is meanwhile.

    Labels are computed in large forward passes: for the whole store at once when the phase draws more windows than
    there are, else for the windows of a step.
    """

    name = "cloning"

    def __init__(
        self,
        updates: int,
        batch_size: int,
        config: PolicyConfig,
        optimizer: torch.optim.Optimizer,
        encoder: Encoder,
        predictor: nn.Module,
        policy: LatentPolicy,
        sampler: WindowSampler,
        compute: Compute,
    ) -> None:
        super().__init__(updates, {}, {"policy": optimizer}, compute, sampler.generator, together=MOST_TOGETHER)
        self.config, self.compute = config, compute
        self.encoder, self.predictor, self.policy = encoder, predictor, policy
        self.anneals = False
        """Whether the learning rate falls to 0 over these updates, linearly."""
        self._learning_rate = float(optimizer.param_groups[0]["lr"])
        self.label_all = updates * batch_size >= len(sampler.centres)
        self.batches = Batches(sampler, batch_size, self.together, last=0 if self.label_all else None)
        # [W, latent_dim] float32, row i for window sampler.centres[i]; a graph reads it, so it is refilled in place
        self._all_labels: Tensor | None = None
        self._labelled = False
        self._labels: Tensor  # [count, B, latent_dim] float32 of a step

    def restart(self, round_: int) -> None:
        super().restart(round_)
        self._labelled = False

    def step(self) -> None:
        if self.label_all and not self._labelled:
            labels = self._label_store()
            if self._all_labels is None:
                self._all_labels = labels
            else:
                self._all_labels.copy_(labels)
            self._labelled = True
        if self.anneals:
            set_learning_rate(self.optimizers["policy"], self._learning_rate * (1 - self.done / self.updates))
        super().step()

    def prepare(self, count: int) -> None:
        super().prepare(count)
        if self._all_labels is not None:
            self._labels = self._all_labels[self.batches.rows]
        else:
            windows = self.batches.index.transpose(0, 1).flatten(1)  # [F, count * B]
            z = [self._label(self.batches.frames, part) for part in windows.split(_LABEL_BATCH, dim=1)]
            self._labels = torch.cat(z).view(count, self.batches.batch_size, -1)

    def update(self, number: int) -> Metrics:
        z = self._labels[number]
        loss = self.loss(self.batches.frames, self.batches.observation(number), z)
        optimizer = self.optimizers["policy"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"loss": loss, "explained": 1 - loss.detach() / z.var(dim=0).mean()}

    def loss(self, frames: Tensor, index: Tensor, z: Tensor) -> Tensor:
        """Eq. 4: mean squared error of pi(f(o_t)) against z [B, latent_dim]; o_t is frames[index], index [B, stack]."""
        sampler, compute, pad = self.batches.sampler, self.compute, self.config.shift_pad
        offset = sampler.draw_shifts(len(index), pad) if pad else None
        if self.config.stack_dropout:
            index = torch.where(sampler.draw_chances(len(index), self.config.stack_dropout), index[:, -1:], index)
        pixels = random_shift(frames, index, offset, pad=pad, dtype=compute.dtype, memory_format=compute.memory_format)
        with compute.autocast():
            with torch.no_grad():
                features = self.encoder(pixels)
            return F.mse_loss(self.policy(features).float(), z)

    def _label_store(self) -> Tensor:
        sampler = self.batches.sampler
        return torch.cat([self._label(*sampler.take(part)) for part in sampler.centres.split(_LABEL_BATCH)])

    @torch.no_grad()
    def _label(self, frames: Tensor, index: Tensor) -> Tensor:
        """z [B, latent_dim] float32 of the windows `index` [F, B]."""
        features = frame_features(self.encoder, frames, index, self.compute)
        with self.compute.autocast():
            return cast(Tensor, self.predictor(features).float())
