"""Phase 3, and again in every online round: the latent policy pi clones latent actions (Eq. 4)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.compute import Compute
from bcvlr_fast.config import LatentActionsConfig, PolicyConfig
from bcvlr_fast.features import Encoder
from bcvlr_fast.frames import WindowSampler
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.latent_actions import window_features
from bcvlr_fast.layers import Impala
from bcvlr_fast.stage import Metrics, Stage

_UPDATES_PER_STEP = 16
_LABEL_BATCH = 512


class LatentPolicy(nn.Module):
    """pi: features of the current frame [B, C, side, side] -> latent action [B, latent_dim]."""

    def __init__(self, config: PolicyConfig, latent: LatentActionsConfig, encoder: Encoder) -> None:
        super().__init__()
        self.trunk = Impala(encoder.channels, encoder.side, config.impala_channels, config.hidden_dim)
        self.head = nn.Linear(config.hidden_dim, latent.latent_dim)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.trunk(features)))


class ActionDecoder(nn.Module):
    """d: latent action [B, latent_dim] -> logits of the environment's actions [B, num_actions]."""

    def __init__(self, latent_dim: int, hidden: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(latent_dim, width), nn.ReLU()]
            latent_dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(latent_dim, num_actions))

    def forward(self, latent_action: Tensor) -> Tensor:
        return cast(Tensor, self.layers(latent_action))


class Cloning(Stage):
    """Trains pi on the videos against the latent actions of p, which stays as it is meanwhile.

    Labels are computed in large forward passes: for the whole store at once when the phase draws
    more windows than there are, else for the windows of the next updates.
    """

    name = "cloning"

    def __init__(
        self,
        updates: int,
        batch_size: int,
        shift_pad: int,
        optimizer: torch.optim.Optimizer,
        encoder: nn.Module,
        predictor: nn.Module,
        policy: LatentPolicy,
        sampler: WindowSampler,
        compute: Compute,
    ) -> None:
        super().__init__(updates, {}, {"policy": optimizer})
        self.batch_size, self.shift_pad = batch_size, shift_pad
        self.encoder, self.predictor, self.policy = encoder, predictor, policy
        self.sampler, self.compute = sampler, compute
        predictor.eval()
        self.label_all = updates * batch_size >= len(sampler.centres)
        self.all_labels: Tensor | None = None  # [W, latent_dim], row i for window sampler.centres[i]

    def step(self) -> Metrics:
        count = min(_UPDATES_PER_STEP, self.updates - self.done)
        drawn, labels = self._draw(count)
        metrics: Metrics = {}
        for centres, z in zip(drawn, labels, strict=True):
            loss = self.loss(centres, z)
            optimizer = self.optimizers["policy"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            metrics = {"loss": loss.detach(), "explained": 1 - loss.detach() / z.var(dim=0).mean()}
        self.done += count
        return metrics

    def loss(self, centres: Tensor, z: Tensor) -> Tensor:
        """Eq. 4: mean squared error of pi(f(o_t)) against z, for frames `centres` [B] and z [B, latent_dim]."""
        frames, index = self.sampler.store.take(centres[:, None])
        offset = self.sampler.draw_shifts(len(centres), self.shift_pad) if self.shift_pad else None
        pixels = random_shift(frames, index, offset, pad=self.shift_pad, dtype=self.compute.dtype)
        with self.compute.autocast():
            with torch.no_grad():
                features = self.encoder(pixels)
            return F.mse_loss(self.policy(features).float(), z)

    def _draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Windows of the next `count` updates [count, B], and their labels [count, B, latent_dim]."""
        sampler = self.sampler
        shape = (count, self.batch_size)
        rows = torch.randint(len(sampler.centres), shape, generator=sampler.generator, device=sampler.store.device)
        drawn = sampler.centres[rows]
        if self.label_all:
            if self.all_labels is None:
                self.all_labels = self._label(sampler.centres)
            return drawn, self.all_labels[rows]
        return drawn, self._label(drawn.reshape(-1)).view(*shape, -1)

    @torch.no_grad()
    def _label(self, centres: Tensor) -> Tensor:
        return torch.cat([self._latent_action(part) for part in centres.split(_LABEL_BATCH)])

    def _latent_action(self, centres: Tensor) -> Tensor:
        window = window_features(self.encoder, self.sampler, centres, self.compute)
        with self.compute.autocast():
            return cast(Tensor, self.predictor(window).float())
