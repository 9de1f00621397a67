"""The latent-action predictor p and its codebook."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from bcvlr_fast.kernels import NearestCode, nearest_code, stack_frames
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.layers import Impala


class LatentActionPredictor(nn.Module):
    """p: features of a window, frame by frame [F * B, C, side, side] -> latent action z [B, latent_dim].

    With `motion_gain` above 0 it sees the changes between consecutive frames, scaled by it, and the last frame.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        window_frames: int,
        channels: tuple[int, ...],
        hidden_dim: int,
        latent_dim: int,
        motion_gain: float = 0.0,
    ) -> None:
        super().__init__()
        self.motion_gain, self.window_frames = motion_gain, window_frames
        self.trunk = Impala(window_frames * encoder.channels, encoder.side, channels, hidden_dim)
        self.head = nn.Linear(hidden_dim, latent_dim)

    def forward(self, features: Tensor) -> Tensor:
        window = stack_frames(features, self.window_frames, self.motion_gain)
        return cast(Tensor, self.head(self.trunk(window)))


class Codebook(nn.Module):
    """The codes [codebooks, codes, code_dim] of quantized latent actions, moved as an exponential moving average."""

    codes: Tensor
    ema_count: Tensor
    ema_sum: Tensor

    def __init__(
        self, *, codebooks: int, codes: int, code_dim: int, decay: float, restart_below: float, first_count: float
    ) -> None:
        """`first_count` is every code's weight before the first update."""
        super().__init__()
        self.decay, self.restart_below = decay, restart_below
        start = torch.empty(codebooks, codes, code_dim).uniform_(-1, 1) * 5 / codes
        count = torch.full(start.shape[:2], first_count)
        self.register_buffer("codes", start)
        self.register_buffer("ema_count", count)
        self.register_buffer("ema_sum", start.clone())

    def forward(self, z: Tensor) -> NearestCode:
        """The nearest codes of z [B, latent_dim]; the codes stay."""
        return nearest_code(z, self.codes)

    def quantize_and_move(self, z: Tensor) -> NearestCode:
        """As `forward`, and in the same pass the codes move toward the z that chose them."""
        return nearest_code(
            z, self.codes, self.ema_count, self.ema_sum, decay=self.decay, restart_below=self.restart_below
        )
