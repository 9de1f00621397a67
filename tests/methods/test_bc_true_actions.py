"""Behavior cloning on true actions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.config.window import Window
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs import spec
from bcvlr_fast.envs.specs import EnvSpec
from bcvlr_fast.methods.bc_true_actions import BCTrueActions, Config
from bcvlr_fast.methods.method import LearnerPhase, Sight, Sources
from bcvlr_fast.methods.registry import preset_for
from bcvlr_fast.runs.training import train
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import Compute

FP32 = Compute(torch.device("cpu"), torch.float32)


def small(env: str, updates: int) -> Config:
    settings = preset_for("bc-true-actions")((env,), "quick").config
    assert isinstance(settings, Config)
    narrow = {"impala_channels": (4, 8), "hidden_dim": 16, "updates": updates, "batch_size": 16}
    settings = replace_in(settings, "policy", **narrow)
    return dataclasses.replace(settings, latent_dim=16, decoder_hidden=(16,), episodes=2, films=0, precision="fp32")


@pytest.mark.parametrize("env", ["procgen:bossfight", "dmc:finger_spin"])
def test_it_learns_actions_that_the_frames_show(env: str) -> None:
    """Learns the action from the brightness of a frame."""
    settings, task = small(env, 300), spec(env)
    rng = np.random.default_rng(0)
    brightness = rng.integers(0, 2, 64)
    frames = np.broadcast_to((brightness * 200 + 20).astype(np.uint8)[:, None, None, None], (64, 3, 64, 64))
    actions = torch.from_numpy(brightness)
    if task.actions.continuous:
        actions = (2.0 * actions - 1)[:, None].expand(-1, task.actions.size).float()
    assert loss_after(settings, task, np.ascontiguousarray(frames), actions) < 0.1


def loss_after(settings: Config, task: EnvSpec, frames: np.ndarray, actions: torch.Tensor) -> float:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    method = BCTrueActions(settings, task, FP32)
    store = FrameStore.from_episodes(frames, np.array([64]), FP32.device)
    sampler = WindowSampler(store, Window(0, 1, settings.frame_stack), generator)
    sources = Sources(sampler, lambda *_: pytest.fail("it never interacts"), actions[sampler.centers])
    (begin,) = method.phases(sources).values()
    phase = begin()
    assert isinstance(phase, LearnerPhase)
    assert phase.learner is not None
    learner = phase.learner
    losses = []
    while learner.done < learner.updates:
        learner.step()
        losses.append(learner.read_metrics()["loss"])
    return float(np.mean(losses[-20:]))


def test_it_sees_labels_and_no_reward() -> None:
    assert BCTrueActions.sees == Sight.VIDEOS | Sight.LABELS


def test_a_complete_run(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(small("procgen:bossfight", 20), out, dataset, Screen(quiet=True))
    assert (out / "report.html").stat().st_size > 0
    assert "true actions, without interaction" in (out / "README.md").read_text()


def test_videos_without_labels_are_one_line_errors(dataset: Path, tmp_path: Path) -> None:
    (dataset / "evaluation_only.npz").unlink()
    with pytest.raises(UserError, match="expected the expert's actions, which this method learns from"):
        train(small("procgen:bossfight", 20), tmp_path / "run", dataset, Screen(quiet=True))
