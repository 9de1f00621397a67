"""Weights of an expert's network, in a file with its card."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import write_whole

Network = TypeVar("Network", bound=nn.Module)


def save_weights(file: Path, network: nn.Module, card: dict[str, Any]) -> None:
    """Writes the weights, matrices and convolutions in half precision, with the card as metadata."""
    tensors = _rounded_weights(network)
    write_whole(file, lambda part: save_file(tensors, part, {"card": json.dumps(card)}))


def rounded(network: Network) -> Network:
    """Rounds a network to what `load_weights` returns after `save_weights`."""
    kept = copy.deepcopy(network)
    kept.load_state_dict(_rounded_weights(network))
    return kept


def load_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Loads (float32 weights by name, card) that `save_weights` wrote. Raises UserError if the file is invalid."""
    try:
        with safe_open(file, "pt") as kept:
            card = json.loads(kept.metadata()["card"])
            return {name: kept.get_tensor(name).float() for name in kept.keys()}, card  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise not_weights(file, error) from None


def not_weights(file: Path, error: Exception) -> UserError:
    """The error of a file that does not contain the weights of an expert."""
    return UserError(f"expert: {file}: not the weights of an expert ({error})")


def _rounded_weights(network: nn.Module) -> dict[str, Tensor]:
    weights = network.state_dict()
    return {name: (value.half() if value.ndim > 1 else value).contiguous() for name, value in weights.items()}
