"""Runs of the commands on tiny settings, for the tests that need a whole one."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bcvlr_fast.training import checkpoint

TINY = """
--env procgen:bossfight --preset quick --episodes 3 --films 1 --precision fp32 --device cpu
--encoder.channels 4 --features.updates 6 --features.batch-size 16 --features.projection-dim 16
--features.hidden-dim 16 --latent-actions.updates 6 --latent-actions.batch-size 16
--latent-actions.impala-channels 4 8 --latent-actions.hidden-dim 16 --latent-actions.world-model-width 4
--policy.updates 32 --policy.batch-size 16 --policy.impala-channels 4 8 --policy.hidden-dim 16
--online.interactions 700 --online.num-envs 8 --online.round-interactions 240 --online.capacity 400
--online.finetune-updates 4 --online.finetune-batch-size 16 --online.clone-updates 20
--online.clone-batch-size 16 --online.regularisation 1
""".split()  # noqa: SIM905


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"bcvlr_fast.{module}", *arguments]


def run(*arguments: str, module: str = "train") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(module, *arguments), capture_output=True, text=True, timeout=300)


def wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    saved, complaints = checkpoint.load_newest(folder / "ckpt")
    assert saved is not None
    assert complaints == []
    assert saved["phase"] == "done"
    return {name: value for name, value in leaves(saved) if isinstance(value, torch.Tensor)}


def leaves(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dictionaries, named by its path."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
