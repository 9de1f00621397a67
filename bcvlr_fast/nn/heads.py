"""Projection heads and the pixel decoder of the self-supervised losses."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.layers import ResidualBlock, initialize_orthogonal


class PixelDecoder(nn.Module):
    """v: features [B, channels, side / stride, ...] -> frames [B, frame_channels, side, side]."""

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
    """Projector and predictor, which both self-supervised losses use."""

    def __init__(self, encoder: Encoder, *, projection_dim: int, hidden_dim: int) -> None:
        super().__init__()
        flat = encoder.channels * encoder.side**2
        self.projector = nn.Sequential(nn.Flatten(), nn.Linear(flat, projection_dim))
        self.predictor = nn.Sequential(
            nn.Linear(projection_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, projection_dim),
        )


class ContrastiveHeads(Heads):
    """Heads of Eq. 1: the bilinear weight W, and the pixel decoder v where frames are reconstructed."""

    def __init__(
        self, encoder: Encoder, *, projection_dim: int, hidden_dim: int, reconstructs: bool, train_decoder: bool = True
    ) -> None:
        super().__init__(encoder, projection_dim=projection_dim, hidden_dim=hidden_dim)
        self.bilinear = nn.Linear(projection_dim, projection_dim, bias=False)
        initialize_orthogonal(self)
        self.pixel_decoder: PixelDecoder | None = None
        if reconstructs:
            self.pixel_decoder = PixelDecoder(encoder.channels, encoder.in_channels, encoder.stride)
            self.pixel_decoder.requires_grad_(train_decoder)


class PrototypeHeads(Heads):
    """Heads of Eq. 5 to 10: the prototypes c, unit vectors [prototypes, projection_dim]."""

    def __init__(self, encoder: Encoder, *, projection_dim: int, hidden_dim: int, prototypes: int) -> None:
        super().__init__(encoder, projection_dim=projection_dim, hidden_dim=hidden_dim)
        self.prototypes = nn.Linear(projection_dim, prototypes, bias=False)
        initialize_orthogonal(self)

    @torch.no_grad()
    def normalize_prototypes(self) -> None:
        """Scales every prototype to unit norm, in place."""
        weight = self.prototypes.weight
        weight.copy_(F.normalize(weight, dim=1))
