"""Benchmark of PPO against CleanRL, in frames per second.

pytest bench/bench_ppo.py --cleanrl PATH --cleanrl-python PYTHON

PATH is a checkout of CleanRL, PYTHON the interpreter of an environment that runs its cleanrl/ppo_procgen.py (it needs
gym 0.23 and procgen). The benchmark first checks that equal weights give equal trunks. Then both programs learn bigfish
from scratch in alternation, with the same settings and threads. Rows go to results/ppo.jsonl.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bcvlr_fast.experts.network import ActorCritic
from bcvlr_fast.experts.ppo import PPOConfig
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.training import metrics_log as logger
from bcvlr_fast.training.compute import choose_compute, choose_device
from rows import report

_GAME = "bigfish"
_ITERATIONS_ON_CPU, _ITERATIONS_ON_GPU = 3, 40
_TURNS = 2


@pytest.fixture
def cleanrl(request: pytest.FixtureRequest) -> tuple[Path, str]:
    path, python = (request.config.getoption(name) for name in ("--cleanrl", "--cleanrl-python"))
    if not path or not python:
        pytest.skip("--cleanrl and --cleanrl-python name the peer")
    return path / "cleanrl" / "ppo_procgen.py", python


def test_ppo_beside_cleanrl(cleanrl: tuple[Path, str], request: pytest.FixtureRequest) -> None:
    script, python = cleanrl
    device = choose_device(request.config.getoption("--device"))
    _check_equal(script)
    iterations = _ITERATIONS_ON_GPU if device.type == "cuda" else _ITERATIONS_ON_CPU
    frames = iterations * PPOConfig().batch_frames
    best = choose_compute(device, "auto").dtype
    precisions = ["auto"] if best == torch.float32 else ["auto", "fp32"]
    turns: dict[str, list[tuple[float, float]]] = {precision: [] for precision in precisions}
    for _ in range(_TURNS):
        theirs = _theirs(script, python, frames, device)
        for precision in precisions:
            turns[precision].append((theirs, _ours(frames, device, precision)))
    for precision, pairs in turns.items():
        rates = {
            "ours_frames_per_s": statistics.median(ours for _, ours in pairs),
            "peer_frames_per_s": statistics.median(theirs for theirs, _ in pairs),
            "ratio": statistics.median(ours / theirs for theirs, ours in pairs),
        }
        dtype = str(choose_compute(device, precision).dtype)
        row = {"game": _GAME, "peer": "CleanRL ppo_procgen (float32)", "precision": dtype, "threads": usable_cores()}
        report("ppo", {**row, **rates})


def _check_equal(script: Path) -> None:
    """CleanRL's trunk with the weights of this package gives the same hidden state in float32."""
    theirs = _network_of(script)
    ours = ActorCritic(PPOConfig())
    parameters = list(ours.trunk.parameters())
    assert [p.shape for p in theirs.parameters()] == [p.shape for p in parameters]
    with torch.no_grad():
        for their, our in zip(theirs.parameters(), parameters, strict=True):
            their.copy_(our)
        x = torch.rand(32, 3, 64, 64) - 0.5
        torch.testing.assert_close(theirs(x), ours.trunk(x), rtol=1e-4, atol=1e-5)


def _network_of(script: Path) -> nn.Module:
    """Network of CleanRL's Agent, built from the classes of its file alone."""
    classes = ("layer_init", "ResidualBlock", "ConvSequence", "Agent")
    tree = ast.parse(script.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) in classes]
    import numpy as np

    names: dict[str, Any] = {"torch": torch, "nn": nn, "np": np}
    exec(compile(tree, str(script), "exec"), names)

    class Space:
        shape = (64, 64, 3)
        n = 15

    class Environments:
        single_observation_space = Space
        single_action_space = Space

    network: nn.Module = names["Agent"](Environments).network
    return network


def _theirs(script: Path, python: str, frames: int, device: torch.device) -> float:
    """Frames per second that CleanRL prints last."""
    cuda = "--cuda" if device.type == "cuda" else "--no-cuda"
    command = [python, str(script), "--env-id", _GAME, "--total-timesteps", str(frames), cuda]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": str(usable_cores())}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float([line for line in done.stdout.splitlines() if line.startswith("SPS:")][-1].split()[1])


def _ours(frames: int, device: torch.device, precision: str) -> float:
    """Frames per second of this package for as many iterations, from the last time in the log, as for CleanRL."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "expert"
        arguments = ["--env", f"procgen:{_GAME}", "--ppo", "--steps", str(frames), "--out", str(out)]
        arguments += ["--device", str(device), "--precision", precision]
        command = [sys.executable, "-m", "bcvlr_fast.expert", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        spent_s: float = [row["time_s"] for row in logger.read_metrics(out) if row["phase"] == "ppo"][-1]
    return frames / spent_s
