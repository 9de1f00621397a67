"""Phase 1: the encoder f, by contrast of shifted frames and by reconstruction (Eq. 1), or by prototypes (Eq. 10)."""

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
from bcvlr_fast.kernels import random_shift, sinkhorn_cross_entropy
from bcvlr_fast.layers import ResidualBlock, initialise_orthogonal
from bcvlr_fast.stage import Metrics, Stage


class Encoder(nn.Module):
    """f: stacked frames [B, in_channels, side, side] in -0.5..0.5 -> features [B, channels, side / stride, ...]."""

    def __init__(self, config: EncoderConfig, in_channels: int, side: int) -> None:
        super().__init__()
        self.in_channels, self.channels = in_channels, config.channels
        self.stride: int = config.stride
        self.side = (side - 1) // config.stride + 1
        layers: list[nn.Module] = [nn.Conv2d(in_channels, config.channels, 3, stride=config.stride, padding=1)]
        if config.plain_layers:
            layers.append(nn.ReLU())
        for _ in range(config.plain_layers):
            layers += [nn.Conv2d(config.channels, config.channels, 3, padding=1), nn.ReLU()]
        layers += [ResidualBlock(config.channels) for _ in range(config.residual_blocks)]
        self.layers = nn.Sequential(*layers)
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


class Heads(nn.Module):
    """Projector and predictor of both self-supervised losses."""

    def __init__(self, config: FeaturesConfig, encoder: Encoder) -> None:
        super().__init__()
        flat = encoder.channels * encoder.side**2
        self.projector = nn.Sequential(nn.Flatten(), nn.Linear(flat, config.projection_dim))
        self.predictor = nn.Sequential(
            nn.Linear(config.projection_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.projection_dim),
        )


class ContrastiveHeads(Heads):
    """With the contrast's bilinear weight, and the pixel decoder v where frames are reconstructed."""

    def __init__(self, config: FeaturesConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.bilinear = nn.Linear(config.projection_dim, config.projection_dim, bias=False)
        initialise_orthogonal(self)
        self.pixel_decoder: PixelDecoder | None = None
        if config.objective == "contrastive+reconstruction":
            self.pixel_decoder = PixelDecoder(encoder.channels, encoder.in_channels, encoder.stride)
            self.pixel_decoder.requires_grad_(config.train_reconstruction)


class PrototypeHeads(Heads):
    """With the prototypes, unit vectors [prototypes, projection_dim]."""

    def __init__(self, config: FeaturesConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.prototypes = nn.Linear(config.projection_dim, config.prototypes, bias=False)
        initialise_orthogonal(self)


class Features(Stage):
    """Trains f; the EMA copies of f and its projector give its loss the targets."""

    name = "features"

    def __init__(self, config: FeaturesConfig, encoder: Encoder, sampler: WindowSampler, compute: Compute) -> None:
        by_prototypes = config.objective == "prototypes"
        kind: type[Heads] = PrototypeHeads if by_prototypes else ContrastiveHeads
        heads = compute.network(kind(config, encoder))
        assert isinstance(heads, Heads)
        self.config, self.compute = config, compute
        self.encoder, self.heads = encoder, heads
        self.online = nn.ModuleList([encoder, heads.projector])
        self.target = copy.deepcopy(self.online).requires_grad_(False)
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
        self._next = 1 if by_prototypes else 0
        """Where the second observation of a pair lies, after the first."""
        self.batches = Batches(sampler, config.batch_size, self.together, last=self._next)

    def update(self, number: int) -> Metrics:
        anchor, positive = self._shifted(number), self._shifted(number, self._next)
        with self.compute.autocast():
            metrics = self.loss(anchor, positive)
        loss = metrics["loss"]
        optimizer = self.optimizers["features"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (number + 1) % self.config.target_every == 0:
            self._move_target()
        return metrics

    def loss(self, anchor: Tensor, positive: Tensor) -> Metrics:
        """The loss of shifted observations [B, in_channels, H, W], and its parts."""
        config = self.config
        if isinstance(self.heads, PrototypeHeads):
            loss, accuracy = prototype_loss(self.encoder, self.heads, self.target, anchor, positive, config)
            return {"loss": loss, "prototype_accuracy": accuracy}
        assert isinstance(self.heads, ContrastiveHeads)
        parts = contrastive_loss(self.encoder, self.heads, self.target, anchor, positive)
        contrast, reconstruction, accuracy = parts
        metrics = {"loss": contrast + config.reconstruction_weight * reconstruction, "contrast": contrast}
        if self.heads.pixel_decoder is not None:
            metrics["reconstruction"] = reconstruction
        return metrics | {"contrast_accuracy": accuracy}

    def _shifted(self, number: int, step: int = 0) -> Tensor:
        config, batches = self.config, self.batches
        offset = batches.sampler.draw_shifts(config.batch_size, config.shift_pad)
        return random_shift(
            batches.frames,
            batches.observation(number, step),
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
    squared error of v(f(anchor)) against the anchor, nought where there is no v.
    """
    features = encoder(anchor)
    query = heads.predictor(heads.projector(features))
    with torch.no_grad():
        key = target[1](target[0](positive))
    logits = (query @ heads.bilinear(key).T).float()  # [B, B]
    label = torch.arange(len(logits), device=logits.device)
    contrast = F.cross_entropy(logits, label)
    decoder = heads.pixel_decoder
    reconstruction = contrast.new_zeros(()) if decoder is None else F.mse_loss(decoder(features).float(), anchor)
    accuracy = (logits.argmax(dim=1) == label).float().mean().detach()
    return contrast, reconstruction, accuracy


def prototype_loss(
    encoder: nn.Module,
    heads: PrototypeHeads,
    target: nn.ModuleList,
    anchor: Tensor,
    positive: Tensor,
    config: FeaturesConfig,
) -> tuple[Tensor, Tensor]:
    """Eq. 10: (cross-entropy of soft assignments to prototypes, share of anchors whose likeliest prototype is their
    target's).

    anchor, positive [B, C, H, W]: shifted observations o_t and o_{t+1}. The assignment of MLP(proj(f(anchor))) is a
    softmax; that of proj'(f'(positive)) is balanced over the batch by Sinkhorn's scalings. Source: Proto-RL (Yarats et
    al. 2021).
    """
    with torch.no_grad():
        weight = heads.prototypes.weight
        weight.copy_(F.normalize(weight, dim=1))
        key = F.normalize(target[1](target[0](positive)).float(), dim=1)
    query = F.normalize(heads.predictor(heads.projector(encoder(anchor))).float(), dim=1)
    logits, wanted = heads.prototypes(query).float(), heads.prototypes(key).detach().float()  # [B, prototypes]
    loss = sinkhorn_cross_entropy(logits, wanted, temperature=config.temperature, iterations=config.sinkhorn_iterations)
    accuracy = (logits.argmax(dim=1) == wanted.argmax(dim=1)).float().mean().detach()
    return loss, accuracy
