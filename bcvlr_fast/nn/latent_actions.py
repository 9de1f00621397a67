"""Latent-action predictor p and its codebook."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from bcvlr_fast.config import LatentActionsConfig
from bcvlr_fast.kernels import NearestCode, nearest_code, stack_frames
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.layers import Impala


class LatentActionPredictor(nn.Module):
    """p: features of frames t - past .. t + future, frame by frame [F * B, C, side, side] -> latent action [B, D]."""

    def __init__(self, config: LatentActionsConfig, encoder: Encoder) -> None:
        super().__init__()
        self.motion_gain, self.window_frames = config.motion_gain, config.window_frames
        channels = config.window_frames * encoder.channels
        self.trunk = Impala(channels, encoder.side, config.impala_channels, config.hidden_dim)
        self.head = nn.Linear(config.hidden_dim, config.latent_dim)

    def forward(self, features: Tensor) -> Tensor:
        window = stack_frames(features, self.window_frames, self.motion_gain)
        return cast(Tensor, self.head(self.trunk(window)))


class Codebook(nn.Module):
    """Codes of the latent actions, updated by EMA in calls with `update`, once per training update."""

    codes: Tensor
    ema_count: Tensor
    ema_sum: Tensor

    def __init__(self, config: LatentActionsConfig) -> None:
        super().__init__()
        self.decay, self.restart_below = config.ema_decay, config.restart_below
        codes = torch.empty(config.codebooks, config.codes, config.code_dim).uniform_(-1, 1) * 5 / config.codes
        count = torch.full(codes.shape[:2], 1.0 if config.codebook_start == "counted" else 0.0)
        self.register_buffer("codes", codes)
        self.register_buffer("ema_count", count)
        self.register_buffer("ema_sum", codes.clone())

    def forward(self, z: Tensor, update: bool) -> NearestCode:
        if not update:
            return nearest_code(z, self.codes)
        return nearest_code(
            z, self.codes, self.ema_count, self.ema_sum, decay=self.decay, restart_below=self.restart_below
        )
