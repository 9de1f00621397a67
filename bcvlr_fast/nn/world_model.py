"""The world model w: a U-Net over feature maps."""

from __future__ import annotations

import itertools
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.layers import ResidualBlock


class WorldModel(nn.Module):
    """w: U-Net from features [B, context_frames * C, side, side] and a latent action [B, latent_dim] to next features.

    It halves the side down to one pixel, so the side is a power of two. The action enters at the first convolution and
    at the bottleneck. `output` is tanh_half (tanh / 2), linear, or residual (the last frame's features plus a change);
    `zero_start` initializes the last layer to zero.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        context_frames: int,
        latent_dim: int,
        width: int,
        output: str = "tanh_half",
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        side = encoder.side
        halvings = side.bit_length() - 1
        if side != 1 << halvings or side < 4:
            raise ValueError(f"side of the feature map: expected a power of two from 4, got {side}")
        in_channels = context_frames * encoder.channels
        widths = [width << i for i in range(halvings)]
        self.output = output
        self.channels = encoder.channels
        self.first = ActionConvolution(in_channels, latent_dim, widths[0])
        self.down = nn.ModuleList([Down(None, widths[0])] + [Down(a, b) for a, b in itertools.pairwise(widths[:-1])])
        self.bottleneck = nn.Conv2d(widths[-2], widths[-1], 2)
        ups = [*reversed(widths), width]
        skips = [latent_dim, *reversed(widths[:-1])]
        self.up = nn.ModuleList(Up(a + s, b) for a, b, s in zip(ups[:-1], ups[1:], skips, strict=True))
        self.final = nn.Sequential(
            nn.Conv2d(width + in_channels, width, 3, padding=1),
            ResidualBlock(width, width // 2),
            nn.ReLU(),
            nn.Conv2d(width, encoder.channels, 1),
        )
        if zero_start:
            for parameter in self.final[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor, latent_action: Tensor) -> Tensor:
        x = self.first(features, latent_action)
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.bottleneck(x)
        skips.append(latent_action[:, :, None, None].to(x.dtype))
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], dim=1))
        out = self.final(torch.cat([x, features.to(x.dtype)], dim=1)).float()
        if self.output == "tanh_half":
            return torch.tanh(out) / 2
        if self.output == "residual":
            return features[:, -self.channels :].float() + out
        return cast(Tensor, out)


class ActionConvolution(nn.Module):
    """3x3 convolution of [features, latent action tiled over the map], without the tiling.

    A tiled channel is constant but for the zero padding, so its part of the output takes nine
    values: four corners, four edges, the inside. They are computed on a 3x3 map and spread.
    """

    def __init__(self, in_channels: int, latent_dim: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels + latent_dim, out_channels, 3, padding=1)

    def forward(self, features: Tensor, latent_action: Tensor) -> Tensor:
        inside = features.shape[-1] - 2
        weight, action_weight = self.conv.weight.split([self.in_channels, latent_action.shape[1]], dim=1)
        tile = latent_action[:, :, None, None].expand(-1, -1, 3, 3)
        nine = F.conv2d(tile, action_weight, padding=1).permute(0, 2, 3, 1)  # [B, 3, 3, C], channels innermost
        lines = torch.cat([nine[:, :, :1], nine[:, :, 1:2].expand(-1, -1, inside, -1), nine[:, :, 2:]], dim=2)
        spread = torch.cat([lines[:, :1], lines[:, 1:2].expand(-1, inside, -1, -1), lines[:, 2:]], dim=1)
        return F.conv2d(features, weight, self.conv.bias, padding=1) + spread.permute(0, 3, 1, 2)


class Down(nn.Module):
    """Convolution (none for the first block, whose input is convolved with the action), norm, residual, half size."""

    def __init__(self, in_channels: int | None, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1) if in_channels else nn.Identity()
        self.norm = nn.BatchNorm2d(out_channels)
        self.residual = ResidualBlock(out_channels, out_channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.max_pool2d(self.residual(self.norm(self.conv(x))), 2))


class Up(nn.Module):
    """Transposed convolution to double size, norm, residual."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 2, 2)
        self.norm = nn.BatchNorm2d(out_channels)
        self.residual = ResidualBlock(out_channels, out_channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(self.norm(self.conv(x))))
