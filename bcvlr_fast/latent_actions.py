"""Phase 2: predictor p, codebook and world model w, from features of video windows (Eq. 2)."""

from __future__ import annotations

import itertools
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.batches import Batches
from bcvlr_fast.compute import Compute
from bcvlr_fast.config import LatentActionsConfig
from bcvlr_fast.features import Encoder
from bcvlr_fast.frames import WindowSampler
from bcvlr_fast.kernels import NearestCode, nearest_code, random_shift, stack_frames
from bcvlr_fast.layers import Impala, ResidualBlock
from bcvlr_fast.stage import Metrics, Stage


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
    """The codes of the latent actions; their EMA moves when `update` is true, once per training update."""

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


class WorldModel(nn.Module):
    """w: U-Net from features [B, frames * C, side, side] and a latent action [B, latent_dim] to the next features.

    Halves the side down to one pixel, so the side is a power of two; the action enters at the
    first convolution and at the bottleneck.
    """

    def __init__(self, config: LatentActionsConfig, encoder: Encoder) -> None:
        super().__init__()
        side, width, latent = encoder.side, config.world_model_width, config.latent_dim
        halvings = side.bit_length() - 1
        if side != 1 << halvings or side < 4:
            raise ValueError(f"side of the feature map: expected a power of two from 4, got {side}")
        in_channels = (config.past_frames + 1) * encoder.channels
        widths = [width << i for i in range(halvings)]
        self.seen_frames, self.window_frames = config.past_frames + 1, config.window_frames
        self.output = config.world_model_output
        self.channels = encoder.channels
        self.first = ActionConvolution(in_channels, latent, widths[0])
        self.down = nn.ModuleList([Down(None, widths[0])] + [Down(a, b) for a, b in itertools.pairwise(widths[:-1])])
        self.bottleneck = nn.Conv2d(widths[-2], widths[-1], 2)
        ups = [*reversed(widths), width]
        skips = [latent, *reversed(widths[:-1])]
        self.up = nn.ModuleList(Up(a + s, b) for a, b, s in zip(ups[:-1], ups[1:], skips, strict=True))
        self.final = nn.Sequential(
            nn.Conv2d(width + in_channels, width, 3, padding=1),
            ResidualBlock(width, width // 2),
            nn.ReLU(),
            nn.Conv2d(width, encoder.channels, 1),
        )
        if config.world_model_start == "zero":
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


@torch.no_grad()
def frame_features(
    encoder: Encoder,
    frames: Tensor,
    index: Tensor,
    compute: Compute,
    offset: Tensor | None = None,
    pad: int = 0,
) -> Tensor:
    """Features [F * B, C, side, side] of windows, observation by observation, oldest first.

    index [stack - 1 + F, B] int64 tells where in `frames` [N, C, H, W] uint8 their frames lie; f takes stacks of them.
    Each observation is encoded once; f is frozen, so there is no gradient. With `offset` [B, 2], as in `random_shift`,
    all frames of a window are shifted alike.
    """
    stack = encoder.in_channels // frames.shape[1]
    stacks = index.unfold(0, stack, 1)  # [F, B, stack]
    offset = None if offset is None else offset.repeat(len(stacks), 1)
    pixels = random_shift(
        frames, stacks.reshape(-1, stack), offset, pad=pad, dtype=compute.dtype, memory_format=compute.memory_format
    )
    with compute.autocast():
        return cast(Tensor, encoder(pixels))


class Windows(NamedTuple):
    """What p, the codebook and w make of one batch of windows."""

    latent_action: Tensor
    """[B, latent_dim] z, before quantisation."""
    prediction_error: Tensor
    """[] mean squared error of w's next features."""
    code: NearestCode


def predict_next(
    predictor: nn.Module, codebook: Codebook, world_model: WorldModel, features: Tensor, compute: Compute, update: bool
) -> Windows:
    """Eq. 2 without its weights: w(s, z_q) against s_{t+1}, on features frame by frame [F * B, C, side, side]."""
    frames = features.chunk(world_model.window_frames)
    seen = world_model.seen_frames
    with compute.autocast():
        z = predictor(features).float()
        code = codebook(z, update)
        prediction = world_model(stack_frames(features[: seen * len(z)], seen), code.quantised)
    return Windows(z, F.mse_loss(prediction, frames[seen].float()), code)


def copy_error(features: Tensor, world_model: WorldModel) -> Tensor:
    """[] error of the guess that nothing changes: features of t + 1 against those of t."""
    frames = features.chunk(world_model.window_frames)
    seen = world_model.seen_frames
    return F.mse_loss(frames[seen - 1].float(), frames[seen].float())


class LatentActions(Stage):
    """Trains p, the codebook and w on the frozen features of the videos."""

    name = "latent_actions"

    def __init__(
        self,
        config: LatentActionsConfig,
        encoder: Encoder,
        predictor: LatentActionPredictor,
        codebook: Codebook,
        world_model: WorldModel,
        sampler: WindowSampler,
        compute: Compute,
    ) -> None:
        self.config, self.compute = config, compute
        self.encoder, self.predictor, self.codebook, self.world_model = encoder, predictor, codebook, world_model
        self.trained = [*predictor.parameters(), *world_model.parameters()]
        optimizer = compute.optimizer(self.trained, config.learning_rate, config.weight_decay)
        super().__init__(config.updates, {}, {"latent_actions": optimizer}, compute, sampler.generator)
        self.batches = Batches(sampler, config.batch_size, self.together)

    def update(self, number: int) -> Metrics:
        self.predictor.train()
        self.world_model.train()
        features = frame_features(self.encoder, self.batches.frames, self.batches.index[number], self.compute)
        result = predict_next(self.predictor, self.codebook, self.world_model, features, self.compute, update=True)
        loss = result.prediction_error + self.config.commitment * result.code.commitment
        optimizer = self.optimizers["latent_actions"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip)
        optimizer.step()
        return {
            "loss": loss,
            "prediction_error": result.prediction_error,
            "copy_error": copy_error(features, self.world_model),
            "commitment": result.code.commitment,
            "perplexity": result.code.perplexity.mean(),
            "grad_norm": norm,
        }
