"""Runs in processes of their own that are signaled and resumed."""

import os
import signal
import subprocess
from pathlib import Path

import torch

from helpers.tiny import command, final_tensors, run


def signalled(when: str, number: signal.Signals, *arguments: str, whole_job: bool = False) -> tuple[int, str]:
    """(exit status, stderr) of a run that gets the signal once a line with `when` is on its screen.

    Without a terminal a stage prints its line at its end: the signal then falls into the next one. With `whole_job` the
    run's own processes get it too.
    """
    process = subprocess.Popen(
        command("train", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=whole_job,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if when in line:
            (os.killpg if whole_job else os.kill)(process.pid, number)
            break
    _, message = process.communicate(timeout=120)
    return process.returncode, message


def resume_to_the_end_of(straight: Path, stopped: Path) -> None:
    """Resumes `stopped`, and compares its last checkpoint with that of `straight` bit for bit."""
    resumed = run("--resume", str(stopped))
    assert resumed.returncode == 0, resumed.stderr
    wanted, found = final_tensors(straight), final_tensors(stopped)
    assert set(wanted) == set(found)
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), name
