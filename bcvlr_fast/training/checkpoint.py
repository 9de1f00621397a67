"""Checkpoints: folders that appear whole, hold no pickle, and are checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import free_bytes

_KEPT = 3
_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_MANIFEST = "manifest.json"


@dataclass
class Checkpoint:
    """Everything that a run needs to go on: named tensors, and a JSON object."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    def put_network(self, name: str, module: nn.Module) -> None:
        for key, value in module.state_dict().items():
            self.tensors[f"network.{name}.{key}"] = value

    def get_network(self, name: str, module: nn.Module) -> None:
        prefix = f"network.{name}."
        module.load_state_dict({k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)})

    def put_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                self.tensors[f"optimizer.{name}.{index}.{key}"] = value

    def get_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimizer.{name}."
        for full, value in self.tensors.items():
            if full.startswith(prefix):
                index, key = full[len(prefix) :].split(".", 1)
                # Fused Adam walks memory: moments must lie as their parameter does (channels last).
                parameter = parameters[int(index)].detach()
                placed = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                state.setdefault(int(index), {})[key] = placed
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Writes `folder`/step-<step>, then drops all but the newest three. Raises UserError where it cannot be written."""
    target = folder / f"step-{step:012d}"
    work, aside = folder / ".new", folder / ".old"
    for leftover in (work, aside):  # of a process that was killed; a run folder has one owner
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in checkpoint.tensors.items()}
        save_file(tensors, work / _TENSORS)
        (work / _STATE).write_text(json.dumps(checkpoint.state, indent=1))
        sums = {name: _sha256(work / name) for name in (_TENSORS, _STATE)}
        (work / _MANIFEST).write_text(json.dumps({"format": 1, "sha256": sums}))
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
    for old in sorted(folder.glob("step-*"))[:-_KEPT]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole (None if there is none), and a line on each newer one that is not."""
    bad: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return load(path), bad
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            bad.append(f"checkpoint: {path} is damaged ({error})")
    return None, bad


def load(path: Path) -> Checkpoint:
    """One checkpoint. Raises ValueError where its files differ from its manifest."""
    sums = json.loads((path / _MANIFEST).read_text())["sha256"]
    for name, expected in sums.items():
        if _sha256(path / name) != expected:
            raise ValueError(f"{name}: sha256 differs from the manifest's")
    return Checkpoint(load_file(path / _TENSORS), json.loads((path / _STATE).read_text()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
