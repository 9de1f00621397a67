"""Frozen encoder from timm in place of f: a pretrained network up to one of its feature maps."""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import Tensor, nn

from bcvlr_fast.config import EncoderConfig
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.system.errors import UserError

_RGB = 3
_MIN_SIDE = 4
"""Minimum side of the feature map, which w halves and doubles."""


class PretrainedEncoder(Encoder):
    """Stacked frames [B, in_channels, side, side] in -0.5..0.5 -> features [B, channels, side / stride, ...].

    Each frame of a stack is encoded separately, and the feature maps are concatenated along the channels. Nothing is
    trained, including normalization statistics.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: EncoderConfig, in_channels: int, side: int, load: bool = True) -> None:
        """Without `load`, the weights are random; a checkpoint then provides them.

        Raises UserError if the network cannot be built, or its features do not fit the world model.
        """
        nn.Module.__init__(self)  # skips the layers of Encoder
        if in_channels % _RGB:
            raise UserError(f"encoder.pretrained: expected frames of 3 channels, got {in_channels} in a stack")
        network, mean, deviation = _network(config, load)
        stage = network.feature_info.get_dicts()[0]
        self.in_channels, self.stride = in_channels, int(stage["reduction"])
        self.channels = in_channels // _RGB * int(stage["num_chs"])
        self.side = -(-side // self.stride)
        if self.side < _MIN_SIDE or self.side & (self.side - 1):
            stage_name = f"{config.pretrained} at stage {config.pretrained_stage}"
            expected = f"expected features of {_MIN_SIDE} or a larger power of two a side"
            raise UserError(
                f"encoder.pretrained: {stage_name}: {expected}, got {self.side} (--encoder.pretrained-stage)"
            )
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(_RGB, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(deviation).view(_RGB, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> PretrainedEncoder:  # noqa: ARG002
        """Keeps evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.reshape(-1, _RGB, *x.shape[2:])
        features = self.network((frames + 0.5 - self.mean) * self.scale)[0]
        return cast(Tensor, features.reshape(len(x), self.channels, *features.shape[2:]))


def _network(config: EncoderConfig, load: bool) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """Returns the network, and the mean and standard deviation of its input colors. Raises UserError if it fails."""
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise UserError(f"encoder.pretrained: needs the package '{error.name}' (extra [timm])") from None
    weights = config.pretrained_weights
    source: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(weights)}} if weights and load else {}
    try:
        network = timm.create_model(
            config.pretrained, pretrained=load, features_only=True, out_indices=(config.pretrained_stage,), **source
        )
    except Exception as error:  # any exception of timm, its hub, the network connection or the file reader
        name = f"encoder.pretrained: {config.pretrained} at stage {config.pretrained_stage}"
        raise UserError(f"{name} cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    data_config = timm.get_pretrained_cfg(config.pretrained)
    return network, tuple(data_config.mean), tuple(data_config.std)
