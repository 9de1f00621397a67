"""Phase 1: the encoder f, by contrast of shifted frames and by reconstruction (Eq. 1)."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.batches import Batches
from bcvlr_fast.compute import Compute
from bcvlr_fast.config import EncoderConfig, FeaturesConfig
from bcvlr_fast.frames import WindowSampler
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.layers import ResidualBlock, initialise_orthogonal
from bcvlr_fast.stage import Metrics, Stage


class Encoder(nn.Module):
    """f: frames [B, C, side, side] in -0.5..0.5 -> features [B, channels, side / stride, side / stride]."""

    def __init__(self, config: EncoderConfig, frame_channels: int, side: int) -> None:
        super().__init__()
        self.channels = config.channels
        self.stride = config.stride
        self.side = (side - 1) // config.stride + 1
        self.layers = nn.Sequential(
            nn.Conv2d(frame_channels, config.channels, 3, stride=config.stride, padding=1),
            *(ResidualBlock(config.channels) for _ in range(config.residual_blocks)),
        )
        initialise_orthogonal(self)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(x))


class PixelDecoder(nn.Module):
    """v: features -> frames, at the encoder's input size."""

    def __init__(self, channels: int, frame_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.layers = nn.Sequential(
            nn.Conv2d(channels, frame_channels * stride * stride, 3, padding=1),
            nn.PixelShuffle(stride) if stride > 1 else nn.Identity(),
            ResidualBlock(frame_channels),
            ResidualBlock(frame_channels),
        )
        initialise_orthogonal(self)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(features))


class ContrastiveHeads(nn.Module):
    """Projector, predictor and bilinear weight of the contrast, and the pixel decoder v."""

    def __init__(self, config: FeaturesConfig, encoder: Encoder, frame_channels: int) -> None:
        super().__init__()
        flat = encoder.channels * encoder.side**2
        self.projector = nn.Sequential(nn.Flatten(), nn.Linear(flat, config.projection_dim))
        self.predictor = nn.Sequential(
            nn.Linear(config.projection_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.projection_dim),
        )
        self.bilinear = nn.Linear(config.projection_dim, config.projection_dim, bias=False)
        initialise_orthogonal(self)
        self.pixel_decoder = PixelDecoder(encoder.channels, frame_channels, encoder.stride)


class Features(Stage):
    """Trains f; the EMA copies of f and its projector give the contrast its targets."""

    name = "features"

    def __init__(self, config: FeaturesConfig, encoder: Encoder, sampler: WindowSampler, compute: Compute) -> None:
        frame_channels = sampler.store.frames.shape[1]
        heads = compute.network(ContrastiveHeads(config, encoder, frame_channels))
        assert isinstance(heads, ContrastiveHeads)
        self.config, self.compute = config, compute
        self.encoder, self.heads = encoder, heads
        self.online = nn.ModuleList([encoder, heads.projector])
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        heads.pixel_decoder.requires_grad_(config.train_reconstruction)
        trained = [*encoder.parameters(), *(p for p in heads.parameters() if p.requires_grad)]
        optimizer = compute.optimizer(trained, config.learning_rate)
        super().__init__(
            config.updates,
            {"heads": heads, "target": self.target},
            {"features": optimizer},
            compute,
            sampler.generator,
            period=config.target_every,
        )
        self.batches = Batches(sampler, config.batch_size, self.together, only_now=True)

    def update(self, number: int) -> Metrics:
        anchor, positive = self._shifted(number), self._shifted(number)
        with self.compute.autocast():
            contrast, reconstruction, accuracy = contrastive_loss(
                self.encoder, self.heads, self.target, anchor, positive
            )
        loss = contrast + self.config.reconstruction_weight * reconstruction
        optimizer = self.optimizers["features"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (number + 1) % self.config.target_every == 0:
            self._move_target()
        return {
            "loss": loss,
            "contrast": contrast,
            "reconstruction": reconstruction,
            "contrast_accuracy": accuracy,
        }

    def _shifted(self, number: int) -> Tensor:
        config, batches = self.config, self.batches
        offset = batches.sampler.draw_shifts(config.batch_size, config.shift_pad)
        return random_shift(
            batches.frames,
            batches.index[number].T,
            offset,
            pad=config.shift_pad,
            mode=config.shift_mode,
            memory_format=self.compute.memory_format,
        )

    @torch.no_grad()
    def _move_target(self) -> None:
        torch._foreach_lerp_(
            list(self.target.parameters()),
            [p.detach() for p in self.online.parameters()],
            self.config.target_rate,
        )


def contrastive_loss(
    encoder: nn.Module, heads: ContrastiveHeads, target: nn.ModuleList, anchor: Tensor, positive: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 1: (contrast, reconstruction, share of anchors whose own positive scores highest).

    anchor, positive [B, C, H, W]: two shifts of the same frames. With a = MLP(proj(f(anchor))) and
    b = proj'(f'(positive)): mean over i of -log softmax_j(a_i W b_j)_i, no temperature; and the mean
    squared error of v(f(anchor)) against the anchor.
    """
    features = encoder(anchor)
    query = heads.predictor(heads.projector(features))
    with torch.no_grad():
        key = target[1](target[0](positive))
    logits = (query @ heads.bilinear(key).T).float()  # [B, B]
    label = torch.arange(len(logits), device=logits.device)
    contrast = F.cross_entropy(logits, label)
    reconstruction = F.mse_loss(heads.pixel_decoder(features).float(), anchor)
    accuracy = (logits.argmax(dim=1) == label).float().mean().detach()
    return contrast, reconstruction, accuracy
