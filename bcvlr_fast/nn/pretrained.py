"""A frozen pretrained encoder in place of f: one of timm's networks, cut off at a feature map."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.system.errors import UserError

_COLORS = 3
_MIN_SIDE = 4
"""Smallest side of a feature map that the world model can halve and double."""


class PretrainedEncoder(Encoder):
    """Stacked frames [B, in_channels, side, side] in -0.5..0.5 -> features [B, channels, side / stride, ...].

    The frames of a stack pass one by one and their maps are concatenated along the channels. Nothing in it is trained,
    its normalization layers included.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, in_channels: int, side: int, *, model: str, stage: int, weights: Path | None = None, load: bool = True
    ) -> None:
        """The timm model `model` up to its feature map `stage`, the largest being 0. `weights` is a safetensors file;
        without one timm downloads the published weights. With `load` false the weights are random, for a checkpoint to
        fill."""
        nn.Module.__init__(self)  # its layers are others than the parent's
        if in_channels % _COLORS:
            raise UserError(f"encoder.pretrained: expected frames of 3 channels, got {in_channels} in a stack")
        network, mean, deviation = _network(model, stage, weights, load)
        feature_map = network.feature_info.get_dicts()[0]
        self.in_channels, self.stride = in_channels, int(feature_map["reduction"])
        self.channels = in_channels // _COLORS * int(feature_map["num_chs"])
        self.side = -(-side // self.stride)
        if self.side < _MIN_SIDE or self.side & (self.side - 1):
            stage_name = f"{model} at stage {stage}"
            expected = f"expected features of {_MIN_SIDE} or another power of two a side"
            raise UserError(
                f"encoder.pretrained: {stage_name}: {expected}, got {self.side} (--encoder.pretrained-stage)"
            )
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(_COLORS, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(deviation).view(_COLORS, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> PretrainedEncoder:  # noqa: ARG002
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.reshape(-1, _COLORS, *x.shape[2:])
        features = self.network((frames + 0.5 - self.mean) * self.scale)[0]
        return cast(Tensor, features.reshape(len(x), self.channels, *features.shape[2:]))


def _network(
    model: str, stage: int, weights: Path | None, load: bool
) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """(network, mean and standard deviation of its input colors). Raises UserError where it cannot be loaded."""
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise UserError(f"encoder.pretrained: needs the package '{error.name}' (extra [timm])") from None
    source: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(weights)}} if weights and load else {}
    try:
        network = timm.create_model(model, pretrained=load, features_only=True, out_indices=(stage,), **source)
    except Exception as error:  # timm's, of its hub, of the network's and of the file's reader
        name = f"encoder.pretrained: {model} at stage {stage}"
        raise UserError(f"{name} cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    looks = timm.get_pretrained_cfg(model)
    return network, tuple(looks.mean), tuple(looks.std)
