"""Benchmark of one update of each phase: pytest bench/bench_update.py [--official PATH] [--scale quick]

Covers the discrete method on Procgen and the continuous one on DMControl. The peers are the official implementations,
if PATH is a checkout (or a folder with BCV-LR-discrete, BCV-LR or both), and this package run plainly: eager, float32,
channels first, with the PyTorch references (Triton on a GPU). Then optimizations are switched on one by one: the
layout, bf16, the kernels, or capture on a GPU; torch.compile last, with --compiled. All sides alternate, and each side
includes drawing, loading and normalizing its frames. First, the losses of the official networks are checked against
this package. Uses all cores of this process. Rows go to results/updates.jsonl.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bcvlr_fast.envs import spec
from bcvlr_fast.kernels import reference_only
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.features import build_heads, contrastive_loss, prototype_loss
from bcvlr_fast.methods.bcvlr.latent_actions import prediction_error
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.bcvlr.synthetic import PHASES, learner_of, random_frames, store_of
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.heads import ContrastiveHeads, Heads, PrototypeHeads
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.training.compute import Compute, choose_compute
from official import suite_of
from rows import report

_FRAMES = 32_768
_ROUNDS = {"paper": 2, "quick": 15}
_ENVS = ("procgen:bossfight", "dmc:finger_spin")
_MAX_TOGETHER = 2  # limit on a CPU, where a step of cloning would take minutes


@pytest.fixture
def threads() -> Iterator[int]:
    """Uses all cores, as training does."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    yield usable_cores()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Random frames, enough for one chunk of the official code."""
    return random_frames(_FRAMES)


@pytest.fixture(scope="module")
def checkouts(request: pytest.FixtureRequest) -> dict[str, Path]:
    """Checkouts of the official repositories by suite."""
    path = request.config.getoption("--official")
    if path is None:
        return {}
    folders = {suite_of(folder): folder for folder in (path, path / "BCV-LR-discrete", path / "BCV-LR")}
    checkouts = {suite: folder for suite, folder in folders.items() if suite is not None}
    if not checkouts:
        raise pytest.UsageError(
            f"--official: {path}: expected a checkout of BCV-LR-discrete or BCV-LR, or a folder that holds them"
        )
    return checkouts


@pytest.fixture(scope="module")
def frames_file(checkouts: dict[str, Path], frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of frames for the official process."""
    file = tmp_path_factory.mktemp("official") / "frames.npy"
    if checkouts:
        np.save(file, frames)
    return file


@pytest.fixture
def checkout(env: str, checkouts: dict[str, Path]) -> Path | None:
    """Checkout of the official repository for the environment; None if there is none."""
    return checkouts.get(env.partition(":")[0])


class Peer:
    """An official implementation in a separate process, which waits while others are timed."""

    def __init__(self, checkout: Path, frames: Path, device: torch.device, threads: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("official.py"))]
        self._process = subprocess.Popen(
            [*command, str(checkout), str(frames), str(device)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OFFICIAL_THREADS": str(threads)},
        )

    def ask(self, *order: str) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the official code ended with {self._process.wait()}; run its order {order} by hand")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize("env", _ENVS)
def test_official_losses(
    env: str, checkout: Path | None, frames_file: Path, device: torch.device, tmp_path: Path
) -> None:
    """With the official weights and the same batch in float32, every loss of the four phases is equal."""
    if checkout is None:
        pytest.skip(f"no --official PATH with the code for {env}")
    peer = Peer(checkout, frames_file, device, 1)
    expected = peer.ask("check", str(tmp_path / "official.safetensors"))
    peer.close()
    given = load_file(tmp_path / "official.safetensors", device=str(device))
    actual = _our_losses(env, given, Compute(device, torch.float32))
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, rel=2e-4), name


def _our_losses(env: str, given: dict[str, Tensor], compute: Compute) -> dict[str, float]:
    config = preset(env, "paper")
    agent = Agent(config, spec(env), compute)
    encoder = agent.encoder
    assert isinstance(encoder, Encoder)
    heads = build_heads(config.features, encoder)
    compute.network(heads)
    networks: dict[str, nn.Module] = {"heads": heads, **dict(agent.named_children())}
    for name, module in networks.items():
        with torch.no_grad():
            for i, parameter in enumerate(module.parameters()):
                parameter.copy_(given[f"{name}.{i}"])
        assert name == "codebook" or f"{name}.{len(list(module.parameters()))}" not in given, name
    agent.codebook.codes.copy_(given["codes"])
    agent.world_model.train()
    windows = given["windows"]  # [B, T, C, H, W]
    frames = windows.flatten(0, 1).contiguous()
    index = torch.arange(len(frames), device=frames.device).view(len(windows), -1).T  # [T, B]
    stacks = index.unfold(0, config.frame_stack, 1)[config.latent_actions.past_frames :]  # [2, B, stack]: now, next
    now, following = (frames[stack].flatten(1, 2).float() / 255 - 0.5 for stack in stacks)
    action_loss = F.mse_loss if agent.spec.actions.continuous else F.cross_entropy
    with torch.no_grad():
        features = agent.frame_features(frames, index)
        z = agent.latent_action(features)
        code = agent.codebook(z)
        cloned = agent.policy(encoder(now))
        losses = {
            **_our_feature_losses(config, encoder, heads, now, following),
            "commitment": config.latent_actions.commitment * code.commitment,
            "prediction_error": prediction_error(agent, features, code),
            "cloning": F.mse_loss(cloned, z),
            "action": action_loss(agent.decoder(z), given["action"]),
        }
    return {name: value.item() for name, value in losses.items()}


def _our_feature_losses(
    config: Config, encoder: Encoder, heads: Heads, now: Tensor, following: Tensor
) -> dict[str, Tensor]:
    target = nn.ModuleList([encoder, heads.projector])
    if isinstance(heads, PrototypeHeads):
        heads.normalize_prototypes()
        how = {"temperature": config.features.temperature, "iterations": config.features.sinkhorn_iterations}
        return {"prototypes": prototype_loss(encoder, heads, target, now, following, **how)[0]}  # type: ignore[arg-type]
    assert isinstance(heads, ContrastiveHeads)
    loss = contrastive_loss(encoder, heads, target, now, following, alpha=config.features.reconstruction_weight)
    return {"contrast": loss.contrast, "reconstruction": loss.reconstruction}


def _sides(device: torch.device, precision: str, compiled: bool) -> dict[str, tuple[Compute, str]]:
    """This package, plain, then with one more optimization at a time: (compute, how operations or updates run)."""
    auto = choose_compute(device, precision)
    if device.type == "cuda":
        return {
            "plain eager float32": (Compute(device, torch.float32, torch.contiguous_format), "eager"),
            "channels last": (Compute(device, torch.float32), "eager"),
            "bfloat16": (Compute(device, torch.bfloat16), "eager"),
            "ours": (auto, "captured"),
            **({"torch.compile": (dataclasses.replace(auto, compile=True), "captured")} if compiled else {}),
        }
    sides = {
        "plain eager float32": (Compute(device, torch.float32, torch.contiguous_format), "references"),
        "channels last": (Compute(device, torch.float32), "references"),
        "bfloat16": (Compute(device, torch.bfloat16), "references"),
        "ours": (auto, "kernels"),
    }
    if auto.dtype == torch.float32:
        del sides["bfloat16"]
    if compiled:
        sides["torch.compile"] = (dataclasses.replace(auto, compile=True), "kernels")
    return sides


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("env", _ENVS)
def test_update(
    request: pytest.FixtureRequest,
    env: str,
    phase: str,
    checkout: Path | None,
    frames: np.ndarray,
    frames_file: Path,
    device: torch.device,
    threads: int,
) -> None:
    """Seconds per update: medians over rounds, and ratios within each round."""
    scale = request.config.getoption("--scale")
    config = preset(env, scale)
    store = store_of(frames, device)
    sides: dict[str, Callable[[], float]] = {}
    closing = contextlib.ExitStack()
    loading: list[float] = []
    if checkout is not None and scale == "paper":
        peer = Peer(checkout, frames_file, device, threads)
        closing.callback(peer.close)
        peer.ask("prepare", phase.replace(" ", "_").replace("-", ""))

        def official() -> float:
            answer = peer.ask("update")
            loading.append(answer["load_s"])
            return answer["seconds"]

        sides["official"] = official
    precision, compiled = request.config.getoption("--precision"), request.config.getoption("--compiled")
    for name, (compute, how) in _sides(device, precision, compiled).items():
        sides[name] = _timed(phase, config, compute, store, how)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rounds = _ROUNDS[scale]
    with closing:
        if "official" in sides:
            sides["official"]()  # the sides of this package warm up each time
        for _ in range(rounds):
            for name, side in sides.items():
                seconds[name].append(side())
    ours = seconds["ours"]
    row: dict[str, Any] = {
        "env": env,
        "phase": phase,
        "scale": scale,
        "precision": choose_compute(device, precision).precision,
        "threads": threads,
        "update_ms": {name: statistics.median(values) * 1e3 for name, values in seconds.items()},
        "ratio": {
            name: statistics.median(b / a for a, b in zip(ours, values, strict=True))
            for name, values in seconds.items()
            if name != "ours"
        },
        "rounds": len(ours),
    }
    if loading:
        row["official_loading_ms"] = statistics.median(loading) * 1e3
    report("updates", row)


def _timed(phase: str, config: Any, compute: Compute, store: Any, how: str) -> Callable[[], float]:
    """Seconds per update, from the second of two steps of the phase.

    The first step allocates memory, because each side frees its memory after its turn: all of them would not fit.
    """
    learner = learner_of(phase, config, compute, store)
    if compute.device.type == "cpu":
        learner.together = min(learner.together, _MAX_TOGETHER)
    else:
        if how == "eager":
            learner._step = lambda: learner._run(learner.together)
        for _ in range(4):  # until the graph is captured
            learner.step()

    def step() -> None:
        with reference_only() if how == "references" else contextlib.nullcontext():
            learner.step()
        if compute.device.type == "cuda":
            torch.cuda.synchronize()

    def once() -> float:
        step()
        before, start = learner.done, time.perf_counter()
        step()
        seconds = (time.perf_counter() - start) / (learner.done - before)
        _give_memory_back()
        return seconds

    return once


def _give_memory_back() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
