"""The latent policy pi and the action decoder d."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.layers import Bottleneck, Impala


class LatentPolicy(nn.Module):
    """pi: features of the current frame [B, C, side, side] -> latent action [B, latent_dim]."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        trunk: str,
        latent_dim: int,
        channels: tuple[int, ...] = (),
        hidden_dim: int = 0,
        bottleneck_dim: int = 0,
        mlp_hidden: tuple[int, ...] = (),
    ) -> None:
        """`trunk` is impala (`channels`, `hidden_dim`) or mlp (`bottleneck_dim`, `mlp_hidden`)."""
        super().__init__()
        self.trunk: nn.Module
        if trunk == "mlp":
            flat = encoder.channels * encoder.side**2
            self.trunk, width = Bottleneck(flat, bottleneck_dim, tuple(mlp_hidden)), mlp_hidden[-1]
        else:
            self.trunk, width = Impala(encoder.channels, encoder.side, tuple(channels), hidden_dim), hidden_dim
        self.head = nn.Linear(width, latent_dim)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.trunk(features)))


class ActionDecoder(nn.Module):
    """d: latent action [B, latent_dim] -> logits of discrete actions, or values of continuous ones, [B, actions]."""

    def __init__(self, latent_dim: int, hidden: tuple[int, ...], actions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(latent_dim, width), nn.ReLU()]
            latent_dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(latent_dim, actions))

    def forward(self, latent_action: Tensor) -> Tensor:
        return cast(Tensor, self.layers(latent_action))
