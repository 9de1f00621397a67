"""The network of Procgen's experts: IMPALA with a policy and a value, for PPO and DAgger."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bcvlr_fast.envs.procgen import NUM_ACTIONS
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.experts.weights import load_weights, not_weights, save_weights
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.layers import Impala
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training.compute import Compute


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of an `ActorCritic`."""

    stem: int = 0
    """Channels of a convolution with stride 2 before the trunk, which then costs a quarter. 0 has none."""
    channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the trunk's stages."""
    hidden_dim: int = 256
    """Width of the trunk's output."""


class ActorCritic(nn.Module):
    """Maps normalized frames [B, C, H, W] to (logits [B, 15], value [B]), both float32."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.sizes = NetworkConfig(config.stem, tuple(config.channels), config.hidden_dim)
        channels, side, _ = FRAME_SHAPE
        self.stem: nn.Module = nn.Identity()
        if config.stem:
            self.stem = Encoder(channels, side, channels=config.stem, stride=2)
            channels, side = config.stem, side // 2
        self.trunk = Impala(channels, side, config.channels, config.hidden_dim)
        self.policy = nn.Linear(config.hidden_dim, NUM_ACTIONS)
        self.value = nn.Linear(config.hidden_dim, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)
        nn.init.orthogonal_(self.value.weight, 1.0)
        nn.init.zeros_(self.policy.bias)
        nn.init.zeros_(self.value.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(self.stem(x))
        return self.policy(hidden).float(), self.value(hidden).float()[:, 0]


def forward(
    network: ActorCritic,
    frames: Tensor,
    rows: Tensor,
    compute: Compute,
    offset: Tensor | None = None,
    pad: int = 0,
) -> tuple[Tensor, Tensor]:
    """(logits [B, 15], values [B]) of the rows [B] of frames [N, C, H, W] uint8; `offset` [B, 2] and `pad` shift them,
    as in `random_shift`."""
    pixels = random_shift(
        frames, rows[:, None], offset, pad=pad, dtype=compute.dtype, memory_format=compute.memory_format
    )
    with compute.autocast():
        return cast(tuple[Tensor, Tensor], network(pixels))


@torch.no_grad()
def logits_for(network: ActorCritic, frames: np.ndarray, compute: Compute) -> np.ndarray:
    """Logits [B, 15] float32 of the actions for frames [B, C, H, W] uint8."""
    tensor = torch.from_numpy(frames).to(compute.device)
    logits, _ = forward(network, tensor, torch.arange(len(frames), device=compute.device), compute)
    found: np.ndarray = logits.cpu().numpy()
    return found


def digest(network: ActorCritic) -> str:
    """Eight hex digits that identify the weights."""
    values = (value.cpu().numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(b"".join(values)).hexdigest()[:8]


def save_network(file: Path, network: ActorCritic, card: dict[str, Any]) -> None:
    """Writes the weights in half precision, with the card and the sizes."""
    save_weights(file, network, {**card, "network": asdict(network.sizes)})


def load_network(file: Path, env: str | None = None) -> tuple[ActorCritic, dict[str, Any]]:
    """Loads (network, card) that `save_network` wrote; the card has the `temperature` at which the network acts.

    Raises UserError if the file is invalid or not of `env`.
    """
    tensors, card = load_weights(file)
    try:
        sizes: dict[str, Any] = dict(card["network"])
        network = ActorCritic(NetworkConfig(sizes["stem"], tuple(sizes["channels"]), sizes["hidden_dim"]))
        network.load_state_dict(tensors)
        card["temperature"] = float(card.get("temperature", 0))
        if not 0 <= card["temperature"] < float("inf"):
            raise ValueError(f"temperature {card['temperature']}")
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise not_weights(file, error) from None
    if env not in (None, card.get("env")):
        raise UserError(f"expert: {file}: of {card.get('env')}, expected {env}")
    return network, card
