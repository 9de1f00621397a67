"""The self-supervised encoder f."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bcvlr_fast.nn.layers import ResidualBlock, initialize_orthogonal


class Encoder(nn.Module):
    """f: stacked frames [B, in_channels, side, side] in -0.5..0.5 -> features [B, channels, side / stride, ...].

    A 3x3 convolution with a stride, then either residual blocks without a final activation, or `plain_layers` 3x3
    convolutions with a ReLU after every layer. Orthogonal initialization.
    """

    def __init__(
        self,
        in_channels: int,
        side: int,
        *,
        channels: int,
        stride: int = 1,
        residual_blocks: int = 0,
        plain_layers: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels, self.channels = in_channels, channels
        self.stride = stride
        self.side = (side - 1) // stride + 1
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)]
        if plain_layers:
            layers.append(nn.ReLU())
        for _ in range(plain_layers):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        layers += [ResidualBlock(channels) for _ in range(residual_blocks)]
        self.layers = nn.Sequential(*layers)
        initialize_orthogonal(self)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(x))
