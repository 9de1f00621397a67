"""Projection heads and the pixel decoder of the self-supervised losses."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bcvlr_fast.config import FeaturesConfig
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.layers import ResidualBlock, initialize_orthogonal


class PixelDecoder(nn.Module):
    """v: features [B, channels, side, side] -> frames of the size of the encoder's input."""

    def __init__(self, channels: int, frame_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.layers = nn.Sequential(
            nn.Conv2d(channels, frame_channels * stride * stride, 3, padding=1),
            nn.PixelShuffle(stride) if stride > 1 else nn.Identity(),
            ResidualBlock(frame_channels),
            ResidualBlock(frame_channels),
        )
        initialize_orthogonal(self)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(features))


class Heads(nn.Module):
    """Projector and predictor, which all self-supervised losses use."""

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
    """Heads of the contrastive loss: adds a bilinear weight, and the pixel decoder v if frames are reconstructed."""

    def __init__(self, config: FeaturesConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.bilinear = nn.Linear(config.projection_dim, config.projection_dim, bias=False)
        initialize_orthogonal(self)
        self.pixel_decoder: PixelDecoder | None = None
        if config.objective == "contrastive+reconstruction":
            self.pixel_decoder = PixelDecoder(encoder.channels, encoder.in_channels, encoder.stride)
            self.pixel_decoder.requires_grad_(config.train_reconstruction)


class PrototypeHeads(Heads):
    """Heads of the prototype loss: adds the prototypes, unit vectors [prototypes, projection_dim]."""

    def __init__(self, config: FeaturesConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.prototypes = nn.Linear(config.projection_dim, config.prototypes, bias=False)
        initialize_orthogonal(self)
