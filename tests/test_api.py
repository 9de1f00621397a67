"""The Python API: train, load a policy, act."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import bcvlr_fast
from bcvlr_fast.envs import make
from bcvlr_fast.system.errors import UserError

SMALL = {
    "preset": "quick",
    "precision": "fp32",
    "device": "cpu",
    "episodes": 2,
    "films": 0,
    "encoder": {"channels": 4},
    "features": {"updates": 2, "batch_size": 8, "projection_dim": 8, "hidden_dim": 8},
    "latent_actions": {
        "updates": 2,
        "batch_size": 8,
        "impala_channels": (4, 8),
        "hidden_dim": 16,
        "world_model_width": 4,
    },
    "policy": {"updates": 16, "batch_size": 8, "impala_channels": (4, 8), "hidden_dim": 16},
    "online": {
        "interactions": 64,
        "num_envs": 4,
        "round_interactions": 64,
        "finetune_updates": 2,
        "finetune_batch_size": 8,
        "clone_updates": 16,
        "clone_batch_size": 8,
        "capacity": 64,
    },
}


def test_train_load_act(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(3):
        np.save(videos / f"{i}.npy", np.random.default_rng(i).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))
    run = bcvlr_fast.train("procgen:bossfight", videos, out=tmp_path / "run", quiet=True, **SMALL)
    assert run == tmp_path / "run"
    policy = bcvlr_fast.load_policy(run, device="cpu")
    env = make("procgen:bossfight", num_envs=3, seed=0)
    frames = env.reset()
    for _ in range(5):
        frames = env.step(policy.act(frames)).next_frames()
    env.close()


def test_bad_input_raises_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'bossfight'"):
        bcvlr_fast.train("procgen:bosfight")
    with pytest.raises(UserError, match=r"online\.num_envs: expected 1 <="):
        bcvlr_fast.train("procgen:bossfight", preset="quick", online={"num_envs": 0})
    with pytest.raises(UserError, match=r"expected a run folder with config\.json"):
        bcvlr_fast.load_policy(tmp_path)


def test_train_stays_callable_after_its_module_is_imported() -> None:
    importlib.import_module("bcvlr_fast.train")
    with pytest.raises(bcvlr_fast.UserError, match="did you mean 'bossfight'"):
        bcvlr_fast.train("procgen:bosfight")
