"""A frozen encoder off the shelf in place of f: one of timm's networks, cut off at a feature map."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.system.errors import UserError

if TYPE_CHECKING:
    from bcvlr_fast.methods.bcvlr.config import EncoderConfig

_COLOURS = 3
_LEAST_SIDE = 4
"""Of a feature map that w halves and doubles again."""


class PretrainedEncoder(Encoder):
    """Stacked frames [B, in_channels, side, side] in -0.5..0.5 -> features [B, channels, side / stride, ...].

    The frames of a stack pass one by one; their maps follow one another in the channels. Nothing in it learns, its
    normalisation included.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: EncoderConfig, in_channels: int, side: int, load: bool = True) -> None:
        """Without `load` its weights are random, to be taken from a checkpoint."""
        nn.Module.__init__(self)  # it has other layers
        if in_channels % _COLOURS:
            raise UserError(f"encoder.pretrained: expected frames of 3 channels, got {in_channels} in a stack")
        network, mean, deviation = _network(config, load)
        stage = network.feature_info.get_dicts()[0]
        self.in_channels, self.stride = in_channels, int(stage["reduction"])
        self.channels = in_channels // _COLOURS * int(stage["num_chs"])
        self.side = -(-side // self.stride)
        if self.side < _LEAST_SIDE or self.side & (self.side - 1):
            stage_name = f"{config.pretrained} at stage {config.pretrained_stage}"
            expected = f"expected features of {_LEAST_SIDE} or another power of two a side"
            raise UserError(
                f"encoder.pretrained: {stage_name}: {expected}, got {self.side} (--encoder.pretrained-stage)"
            )
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(_COLOURS, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(deviation).view(_COLOURS, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> PretrainedEncoder:  # noqa: ARG002
        """Stays as it is."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.reshape(-1, _COLOURS, *x.shape[2:])
        features = self.network((frames + 0.5 - self.mean) * self.scale)[0]
        return cast(Tensor, features.reshape(len(x), self.channels, *features.shape[2:]))


def _network(config: EncoderConfig, load: bool) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """(network, mean and standard deviation of its colours). Raises UserError where there is none to be had."""
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
    except Exception as error:  # timm's, of its hub, of the network's and of the file's reader
        name = f"encoder.pretrained: {config.pretrained} at stage {config.pretrained_stage}"
        raise UserError(f"{name} cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    looks = timm.get_pretrained_cfg(config.pretrained)
    return network, tuple(looks.mean), tuple(looks.std)
