"""Checkpoints: folders that are written atomically, contain no pickle, and are verified when loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import free_bytes

State = dict[str, Any]
"""Nested dictionaries with string keys; the leaves are tensors, arrays and JSON values."""

_KEPT_CHECKPOINTS = 3
_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_MANIFEST = "manifest.json"
_FORMAT = 2
_DAMAGE = (OSError, ValueError, KeyError, safetensors.SafetensorError)


def save(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Writes `folder`/step-<step>, then drops all but the newest three.

    Raises UserError if it cannot be written.
    """
    target = folder / f"step-{step:012d}"
    work, aside = folder / ".new", folder / ".old"
    for leftover in (work, aside):  # from a killed process; a run folder has one owner
        shutil.rmtree(leftover, ignore_errors=True)
    tensors: dict[str, Tensor] = {}
    values = _without_tensors(state, "", tensors)
    try:
        work.mkdir(parents=True)
        save_file(tensors, work / _TENSORS)
        (work / _STATE).write_text(json.dumps(values, indent=1))
        sums = {name: _sha256(work / name) for name in (_TENSORS, _STATE)}
        (work / _MANIFEST).write_text(json.dumps({"format": _FORMAT, "sha256": sums}))
        for name in (_TENSORS, _STATE, _MANIFEST):
            _sync(work / name)
        if target.exists():
            target.rename(aside)
        work.rename(target)
        _sync(folder)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise UserError(f"checkpoint: {target}: {error} ({free_bytes(folder):,} bytes free)") from None
    shutil.rmtree(aside, ignore_errors=True)
    for old in sorted(folder.glob("step-*"))[:-_KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path) -> tuple[State | None, list[str]]:
    """The newest intact checkpoint (None if there is none), and a message for each newer one that is damaged."""
    damaged: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return load_checkpoint(path), damaged
        except _DAMAGE as error:
            damaged.append(f"checkpoint: {path} is damaged ({error})")
    return None, damaged


def load_to_resume(folder: Path, warn: Callable[[str], None]) -> State | None:
    """The newest intact checkpoint, None if there is none; `warn` takes a line for each newer one that is damaged.

    Raises UserError if all are damaged.
    """
    kept, damaged = load_newest(folder)
    if damaged and kept is None:
        raise UserError(damaged[0])
    for line in damaged:
        warn(f"{line}; an older one is used")
    return kept


def load_checkpoint(path: Path) -> State:
    """The state that `save` wrote. Raises ValueError where the files differ from the manifest."""
    manifest = json.loads((path / _MANIFEST).read_text())
    for name, expected in manifest["sha256"].items():
        if _sha256(path / name) != expected:
            raise ValueError(f"{name}: sha256 differs from the manifest's")
    tensors, state = load_file(path / _TENSORS), json.loads((path / _STATE).read_text())
    if manifest["format"] == 1:
        return _from_format_1(tensors, state)
    if manifest["format"] != _FORMAT:
        raise UserError(f"checkpoint: {path}: expected format {_FORMAT} or older, got {manifest['format']}")
    for full, tensor in tensors.items():
        *parents, name = full.split("/")
        inner = state
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = tensor
    return dict(state)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimizer's moments by parameter number; its hyperparameters are configuration, not state."""
    return {str(index): dict(values) for index, values in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Restores the state that `optimizer_state` returned."""
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for index, values in state.items():
        parameter = parameters[int(index)]
        # Fused Adam walks memory: moments must have their parameter's layout (channels last).
        moments[int(index)] = {
            key: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            for key, value in values.items()
        }
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _without_tensors(state: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> State:
    """The JSON values of `state`; tensors and arrays go to `tensors`, named by their path."""
    values: State = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            values[key] = _without_tensors(value, f"{prefix}{key}/", tensors)
        elif isinstance(value, Tensor | np.ndarray):
            tensor = value if isinstance(value, Tensor) else torch.from_numpy(value)
            tensors[prefix + key] = tensor.detach().cpu().contiguous().clone()
        else:
            values[key] = value
    return values


def _from_format_1(tensors: dict[str, Tensor], state: State) -> State:
    """The parts of a format 1 checkpoint that a finished run needs: the networks, its progress and its log."""
    prefix = "network.agent."
    agent = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    names = ("updates", "spent", "peaks", "placement", "elapsed_s")
    return {
        "format": 1,
        "agent": agent,
        "phase": state["cursor"]["phase"],
        "progress": {name: state[name] for name in names if name in state},
        "log": {"bytes": state["log_bytes"]} if "log_bytes" in state else None,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
