"""The encoder f."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bcvlr_fast.config import EncoderConfig
from bcvlr_fast.nn.layers import ResidualBlock, initialize_orthogonal


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
        initialize_orthogonal(self)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(x))
