"""Latent policy pi and action decoder d."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bcvlr_fast.config import LatentActionsConfig, PolicyConfig
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.layers import Bottleneck, Impala


class LatentPolicy(nn.Module):
    """pi: features of the current frame [B, C, side, side] -> latent action [B, latent_dim]."""

    def __init__(self, config: PolicyConfig, latent: LatentActionsConfig, encoder: Encoder) -> None:
        super().__init__()
        self.trunk: nn.Module
        if config.trunk == "mlp":
            flat = encoder.channels * encoder.side**2
            self.trunk, width = Bottleneck(flat, config.bottleneck_dim, config.mlp_hidden), config.mlp_hidden[-1]
        else:
            width = config.hidden_dim
            self.trunk = Impala(encoder.channels, encoder.side, config.impala_channels, width)
        self.head = nn.Linear(width, latent.latent_dim)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.trunk(features)))


class ActionDecoder(nn.Module):
    """d: latent action [B, latent_dim] -> action logits [B, A], or continuous actions [B, A]."""

    def __init__(self, latent_dim: int, hidden: tuple[int, ...], actions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(latent_dim, width), nn.ReLU()]
            latent_dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(latent_dim, actions))

    def forward(self, latent_action: Tensor) -> Tensor:
        return cast(Tensor, self.layers(latent_action))
