"""DMControl and MetaWorld, with and without rendering, compared with dm_control."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bcvlr_fast.envs import dmc, make, metaworld, spec
from bcvlr_fast.envs.pool import envpool
from bcvlr_fast.envs.scoring import play
from bcvlr_fast.envs.stacking import Stacked
from helpers.egl import needs_egl

PARITY = Path(__file__).parents[1] / "helpers/parity.py"


needs_dm_control = pytest.mark.skipif(importlib.util.find_spec("dm_control") is None, reason="no dm_control")


@needs_egl
@needs_dm_control
@pytest.mark.parametrize(
    ("task", "pixels", "state"),
    [
        ("point_mass_easy", 0, 1e-6),
        ("reacher_hard", 0, 1e-6),
        ("ball_in_cup_catch", 0, 1e-6),
        ("finger_spin", 1, 1e-5),
        ("cheetah_run", 4, 1e-5),
    ],
)
def test_frames_and_rewards_equal_dm_controls(task: str, pixels: int, state: float) -> None:
    """From the same state and with the same 60 actions, pixels are equal, and states and rewards agree in float32.

    Contacts of the finger and the cheetah amplify the rounding of the first state.
    """
    done = subprocess.run([sys.executable, str(PARITY), task], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert differences["pixels"] <= pixels
    assert differences["state"] < state
    assert differences["reward"] < 1e-6
    assert task != "point_mass_easy" or differences["rewards"] > 10


@pytest.mark.parametrize(("name", "steps"), [("dmc:reacher_hard", 500), ("metaworld:reach", 250)])
def test_blind_episodes_run_to_their_end(name: str, steps: int) -> None:
    env = make(name, 3, seed=1, blind=True)
    rng = np.random.default_rng(0)
    score = play(Stacked(env, 3), lambda turn: env.spec.actions.draw(rng, len(turn.frames)), 4)
    assert score.mean_length_steps == steps
    assert 0 <= score.low <= score.high <= (1 if name.startswith("metaworld") else 1000)


def test_episodes_depend_on_the_seed_alone() -> None:
    """Stepping some environments does not affect the others."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 4, 2)).astype(np.float32)
    first, second, other = (make("dmc:finger_spin", 4, seed=seed, blind=True) for seed in (5, 5, 6))
    for env in (first, second, other):
        env.reset()
    for step, taken in enumerate(actions):
        first.step(taken)
        odd = np.arange(step % 2, 4, 2)
        for envs in (odd, np.setdiff1d(np.arange(4), odd)):
            second.step(taken[envs], envs)
    np.testing.assert_array_equal(first.states, second.states)  # type: ignore[attr-defined]
    assert not np.array_equal(first.states[0], other.states[0])  # type: ignore[attr-defined]
    for env in (first, second, other):
        env.close()


@needs_egl
def test_frames_do_not_depend_on_the_number_of_processes() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, 2)).astype(np.float32)
    results = []
    for num_envs in (3, 1):  # in two processes on two cores, and in one
        env = make("dmc:point_mass_easy", num_envs, seed=2, rendering="fast")
        frames = [env.reset()[:1]]
        for taken in actions:
            frames.append(env.step(taken[: env.num_envs]).frames[:1])
        results.append(np.concatenate(frames))
        with pytest.raises(ValueError, match="actions: expected floats"):
            env.step(np.zeros(env.num_envs, np.int64))
        env.close()
    np.testing.assert_array_equal(*results)
    assert results[0].std() > 10


@needs_egl
def test_blind_environments_begin_like_rendered_ones() -> None:
    for name in ("dmc:finger_spin", "dmc:jaco_reach_top_left", "metaworld:reach"):
        states = []
        for blind in (False, True):
            env = make(name, 2, seed=3, rendering="fast", blind=blind)
            env.reset()
            env.step(np.full((2, env.spec.actions.size), 0.5, np.float32))
            states.append(env.states.copy())  # type: ignore[attr-defined]
            env.close()
        np.testing.assert_array_equal(*states)


@needs_egl
def test_a_process_that_dies_is_named() -> None:
    env = make("dmc:point_mass_easy", 1, seed=2, rendering="fast")
    env._parts[0]._process.kill()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="the process that draws ended with code -9"):
        env.step(np.zeros((1, 2), np.float32))
    env.close()


def test_without_graphics_one_line_says_what_to_install(tmp_path: Path) -> None:
    """EnvPool ends the process without an exception."""
    env = {**os.environ, "__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path), "BCVLR_FAST_CACHE": str(tmp_path)}
    arguments = ["--env", "dmc:point_mass_easy", "--out", str(tmp_path / "run"), "--device", "cpu"]
    command = [sys.executable, "-m", "bcvlr_fast.train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 2, done.stderr
    assert "apt-get install" in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert not (tmp_path / "run").exists()


def test_stacks_repeat_the_first_frame_of_an_episode() -> None:
    env = Stacked(make("procgen:bossfight", 2, seed=0), 3)
    plain = make("procgen:bossfight", 2, seed=0)
    observed, frames = env.reset(), [plain.reset()]
    np.testing.assert_array_equal(observed, np.concatenate(3 * frames, axis=1))
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(200):
        actions = rng.integers(15, size=2)
        step, expected = env.step(actions), plain.step(actions)
        for n in range(2):
            np.testing.assert_array_equal(step.frames[n, 6:], expected.frames[n])
            np.testing.assert_array_equal(step.frames[n, :6], observed[n, 3:])
        np.testing.assert_array_equal(step.first_frames, np.tile(expected.first_frames, (1, 3, 1, 1)))
        observed, ended = step.next_frames(), ended + int(step.ended.sum())
    assert ended > 0
    assert env.pop_episodes() == plain.pop_episodes()
    env.close()
    plain.close()


def test_the_table_of_actions_matches_envpool() -> None:
    """Specs come from tables, because a run must be readable without EnvPool."""
    package = envpool("dmc", "envpool.mujoco.dmc")
    envpool("metaworld", "envpool.mujoco.metaworld")
    for task in dmc.CONTROL_SUITE:
        space = package.make_spec(dmc.envpool_id(task)).action_space
        assert space.shape == spec(f"dmc:{task}").actions.shape, task
    known = set(package.list_all_envs())
    assert {metaworld.envpool_id(task) for task in metaworld.TASKS} <= known
    assert package.make_spec(metaworld.envpool_id("reach")).action_space.shape == (4,)


@pytest.mark.parametrize(
    ("name", "rate"),
    [("dmc:cheetah_run", 50), ("dmc:finger_spin", 25), ("dmc:fish_swim", 12.5), ("dmc:humanoid_CMU_run", 25)],
)
def test_rates_count_the_agents_steps(name: str, rate: float) -> None:
    assert spec(name).steps_per_s == rate
