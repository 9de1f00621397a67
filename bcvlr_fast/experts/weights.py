"""Weights of an expert that SAC trained, in a file with its card."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bcvlr_fast.experts.sac import Actor
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import write_whole


def save_actor(file: Path, actor: Actor, card: dict[str, Any]) -> None:
    """Writes the actor, rounded to half precision, with its card as metadata."""
    tensors = _rounded_weights(actor)
    write_whole(file, lambda part: save_file(tensors, part, {"card": json.dumps(card)}))


def rounded(actor: Actor) -> Actor:
    """Rounds an actor to what `load_actor` returns after `save_actor`."""
    kept = copy.deepcopy(actor)
    kept.load_state_dict(_rounded_weights(actor))
    return kept


def load_actor(file: Path) -> tuple[Actor, dict[str, Any]]:
    """Loads (actor, card) that `save_actor` wrote. Raises UserError if the file is invalid."""
    try:
        with safe_open(file, "pt") as kept:
            card = json.loads(kept.metadata()["card"])
            tensors = {name: kept.get_tensor(name).float() for name in kept.keys()}  # noqa: SIM118
        hidden, state_dim = tensors["layers.0.weight"].shape
        actor = Actor(state_dim, len(tensors["layers.4.bias"]) // 2, hidden)
        actor.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"expert: {file}: not the weights of an expert ({error})") from None
    return actor, card


def _rounded_weights(actor: Actor) -> dict[str, Tensor]:
    """Weights with matrices in half precision."""
    return {name: value.half() if value.ndim > 1 else value for name, value in actor.state_dict().items()}
