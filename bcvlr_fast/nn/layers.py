"""Convolution blocks that several networks share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.kernels import conv_pool, residual_block


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))) with 3x3 convolutions and `hidden` channels between them."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.conv0 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.conv1 = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv0, self.conv1
        assert first.bias is not None
        assert second.bias is not None
        return residual_block(x, first.weight, first.bias, second.weight, second.bias)


class ConvPool(nn.Conv2d):
    """3x3 convolution followed by 3x3 max-pooling with stride 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return conv_pool(x, self.weight, self.bias)


class Impala(nn.Module):
    """IMPALA trunk (Espeholt et al. 2018): stages of convolution, max-pooling and two residual blocks.

    [B, in_channels, side, side] -> [B, hidden_dim], after relu.
    """

    def __init__(self, in_channels: int, side: int, channels: tuple[int, ...], hidden_dim: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for width in channels:
            stages += [ConvPool(in_channels, width), ResidualBlock(width), ResidualBlock(width)]
            in_channels, side = width, (side + 1) // 2
        self.convolutions = nn.Sequential(*stages)
        self.linear = nn.Linear(in_channels * side * side, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(F.relu(self.convolutions(x).flatten(1))))


class Bottleneck(nn.Sequential):
    """MLP over flattened features [B, C, side, side] with a bottleneck of LayerNorm and tanh (DrQ-v2)."""

    def __init__(self, flat: int, bottleneck_dim: int, hidden: tuple[int, ...]) -> None:
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(flat, bottleneck_dim),
            nn.LayerNorm(bottleneck_dim),
            nn.Tanh(),
        ]
        width = bottleneck_dim
        for following in hidden:
            layers += [nn.Linear(width, following), nn.ReLU()]
            width = following
        super().__init__(*layers)


def initialize_orthogonal(module: nn.Module) -> None:
    """Initializes weights orthogonally (gain sqrt 2 for convolutions) and biases with zero, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            gain = nn.init.calculate_gain("relu") if isinstance(layer, nn.Conv2d) else 1.0
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
