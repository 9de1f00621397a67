"""pytest bench/bench_stages.py: an update of each phase at scale `quick`, with the kernels and with their references.

On all of this process's cores, as training runs. What differs is the operations alone: the same networks and draws.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bcvlr_fast.agent import Agent
from bcvlr_fast.compute import Compute, choose_compute
from bcvlr_fast.config import preset
from bcvlr_fast.features import Features
from bcvlr_fast.frames import FrameStore, WindowSampler
from bcvlr_fast.kernels import reference_only
from bcvlr_fast.latent_actions import LatentActions
from bcvlr_fast.online import Finetuning
from bcvlr_fast.policy import Cloning
from bcvlr_fast.replay import Replay, ReplaySampler
from bcvlr_fast.stage import Stage
from conftest import Compare

EPISODES, LENGTH, ACTIONS = 40, 500, 15
CONFIG = preset("procgen:bossfight", "quick")


@pytest.fixture
def compute(device: torch.device) -> Iterator[Compute]:
    """Precision as training chooses it, and the threads that it has."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield choose_compute(device, "auto")
    torch.set_num_threads(1)


def stage(phase: str, compute: Compute) -> Stage:
    """The phase on random frames, always from the same state."""
    torch.manual_seed(0)
    agent = Agent(CONFIG, (3, 64, 64), ACTIONS, compute)
    frames = np.random.default_rng(0).integers(0, 256, (EPISODES * LENGTH, 3, 64, 64), dtype=np.uint8)
    store = FrameStore.from_episodes(frames, np.full(EPISODES, LENGTH), compute.device)
    generator = torch.Generator(compute.device).manual_seed(1)
    latent, policy = CONFIG.latent_actions, CONFIG.policy
    sampler = WindowSampler(store, latent.past_frames, latent.future_frames, generator)
    if phase == "features":
        return Features(CONFIG.features, agent.encoder, sampler, compute)
    agent.encoder.requires_grad_(False)
    if phase == "latent actions":
        learned = agent.predictor, agent.codebook, agent.world_model
        return LatentActions(latent, agent.encoder, *learned, sampler, compute)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(getattr(agent, name).parameters(), lr=1e-4, fused=True)
        for name in ("predictor", "decoder", "policy")
    }
    if phase == "cloning":
        networks = agent.encoder, agent.predictor, agent.policy
        size, pad = policy.batch_size, policy.shift_pad
        return Cloning(policy.updates, size, pad, optimizers["policy"], *networks, sampler, compute)
    replay = Replay(len(frames) - 1, 1, (3, 64, 64), compute.device)
    replay.store.frames.copy_(store.frames)
    replay.store.position[:] = store.position
    replay.action[:] = np.random.default_rng(1).integers(ACTIONS, size=len(frames))
    own = ReplaySampler(replay, latent.past_frames, latent.future_frames, generator)
    assert own.refresh()
    return Finetuning(CONFIG, agent, optimizers, own)


@pytest.mark.parametrize("phase", ["features", "latent actions", "cloning", "fine-tuning"])
def test_step(compare: Compare, compute: Compute, phase: str) -> None:
    """A step of training: an update; of cloning sixteen, with their labels."""
    if compute.device.type != "cpu":
        pytest.skip("the references stand in on the CPU alone")
    ours, theirs = stage(phase, compute), stage(phase, compute)

    def step(stage: Stage) -> None:
        stage.done = 0
        stage.step()

    def without() -> None:
        with reference_only():
            step(theirs)

    step(ours)
    without()
    assert ours.read_metrics()["loss"] == pytest.approx(theirs.read_metrics()["loss"], rel=1e-3)
    dtype = str(compute.dtype).removeprefix("torch.")
    compare("step", f"{phase}, quick, {dtype}", "with PyTorch references", lambda: step(ours), without)
