"""Runs with tiny settings, which take seconds: how to stop, resume and compare them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bcvlr_fast.training import checkpoint
from helpers.commands import start, wait_until

TINY = """
--env procgen:bossfight --preset quick --episodes 3 --films 1 --precision fp32 --device cpu
--encoder.channels 4 --features.updates 6 --features.batch-size 16 --features.projection-dim 16
--features.hidden-dim 16 --latent-actions.updates 6 --latent-actions.batch-size 16
--latent-actions.impala-channels 4 8 --latent-actions.hidden-dim 16 --latent-actions.world-model-width 4
--policy.updates 32 --policy.batch-size 16 --policy.impala-channels 4 8 --policy.hidden-dim 16
--online.interactions 700 --online.num-envs 8 --online.round-interactions 240 --online.capacity 400
--online.finetune-updates 4 --online.finetune-batch-size 16 --online.clone-updates 20
--online.clone-batch-size 16 --online.regularisation 1 --final.updates 24
""".split()  # noqa: SIM905


def signaled(when: str, number: signal.Signals, *arguments: str, new_session: bool = False) -> tuple[int, str]:
    """(exit code, stderr) of a run that receives a signal once it has printed `when`.

    Without a terminal a learner prints its line when it ends, so the signal arrives during the next one. With
    `new_session`, the signal also reaches the processes that the run has started.
    """
    command = start("train", *arguments, new_session=new_session)
    command.wait_for(when)
    command.send_signal(number)
    done = command.finish()
    return done.returncode, done.stderr


def train_only(*arguments: str) -> str:
    """Runs `bcvlr_fast.train` until it has saved its last checkpoint, without evaluation and report.

    Returns its output.
    """
    name = "--resume" if "--resume" in arguments else "--out"
    folder = Path(arguments[arguments.index(name) + 1])
    command = start("train", *arguments, "--episodes", "100000")
    wait_until(lambda: trained(folder) or not command.running, limit_s=120, every_s=0.1)
    assert command.running, command.stderr
    command.send_signal(signal.SIGKILL)
    command.wait(limit_s=10)
    return command.stdout


def assert_resumes_to_the_end_of(straight: Path, stopped: Path) -> None:
    """Resumes `stopped` and asserts that its last checkpoint equals that of `straight` bit for bit."""
    train_only("--resume", str(stopped))
    expected, actual = final_tensors(straight), final_tensors(stopped)
    assert set(expected) == set(actual)
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name


def trained(folder: Path) -> bool:
    """Whether the run has saved its last checkpoint."""
    saved, _ = checkpoint.load_newest(folder / "ckpt")
    return saved is not None and saved["phase"] == "done"


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the last checkpoint of a finished run."""
    saved, complaints = checkpoint.load_newest(folder / "ckpt")
    assert saved is not None
    assert complaints == []
    assert saved["phase"] == "done"
    return {name: value for name, value in leaves(saved) if isinstance(value, torch.Tensor)}


def leaves(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, value) for every leaf of nested dictionaries."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
