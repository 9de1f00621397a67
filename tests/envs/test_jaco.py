"""Jaco tasks of URLB equal those of dm_control's composer."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("dm_control")

from bcvlr_fast.envs.dmc import JACO_TASKS
from bcvlr_fast.envs.jaco import JacoSimulation
from bcvlr_fast.system.errors import UserError
from helpers.egl import needs_egl

TARGET_M = (0.09, -0.09, 0.001)  # bottom right
POSITION = slice(-3, None)  # the brick's position in a state


def composed(seed: int) -> Any:
    """The task as URLB builds it with composer, with the position of the brick fixed."""
    from dm_control import composer
    from dm_control.composer.variation import distributions
    from dm_control.manipulation import reach

    task = reach._reach(reach.observations.PERFECT_FEATURES, use_site=False)
    task._prop_placer._position = distributions.Uniform(TARGET_M, TARGET_M)
    return composer.Environment(task, time_limit=10.0, random_state=seed)


def state(time_step: Any) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in time_step.observation.values()]).astype(np.float32)


def test_episodes_equal_composers_whichever_environments_share_the_process() -> None:
    """In two episodes, states, rewards summed over action repeats, and the end after 125 steps are bit-identical."""
    ours = JacoSimulation("jaco_reach_bottom_right", [3, 8], None)
    theirs = composed(seed=8)
    low, high = theirs.action_spec().minimum, theirs.action_spec().maximum
    rng = np.random.default_rng(1)
    both, total = np.arange(2), 0.0
    for _ in range(2):
        time_step = theirs.reset()
        np.testing.assert_array_equal(ours.reset(both)[1], state(time_step))
        steps = 0
        while not time_step.last():
            actions = rng.uniform(-1, 1, (2, 9)).astype(np.float32)
            control, reward = low + (high - low) / 2 * (actions[1].astype(np.float64) + 1), 0.0
            for _ in range(2):
                time_step = theirs.step(control)
                reward += time_step.reward
            states, outcome = ours.step(actions, both)
            steps += 1
            np.testing.assert_array_equal(states[1], state(time_step))
            assert outcome.reward[1] == reward
            assert outcome.ended.all() == outcome.ended.any() == time_step.last()
            assert not outcome.success.any()
            total += reward
        assert steps == 125
    assert total > 1


def test_the_same_seed_and_actions_give_the_same_states() -> None:
    alone, among = (JacoSimulation("jaco_reach_top_left", seeds, None) for seeds in ([5], [4, 5, 6]))
    actions = np.random.default_rng(2).uniform(-1, 1, (10, 3, 9)).astype(np.float32)
    one, two = np.array([0]), np.array([1, 2])
    np.testing.assert_array_equal(alone.reset(one), among.reset(np.arange(3))[1:2])
    for step in actions:
        np.testing.assert_array_equal(alone.step(step[1:2], one)[0], among.step(step[1:], two)[0][:1])


@pytest.mark.parametrize("task", JACO_TASKS)
def test_the_brick_is_where_the_task_says(task: str) -> None:
    simulation = JacoSimulation(task, [0, 1], None)
    states = simulation.reset(np.arange(2))
    assert states.shape == (2, 55)
    assert states.dtype == np.float32
    right, top = "right" in task, "top" in task
    expected = [0.09 if right else -0.09, 0.09 if top else -0.09]
    np.testing.assert_allclose(states[:, POSITION][:, :2], [expected] * 2, atol=5e-3)


def test_states_alone_need_no_graphics() -> None:
    program = """
import os, sys
os.environ["MUJOCO_GL"] = "egl"
import numpy as np
from bcvlr_fast.envs.jaco import JacoSimulation
simulation = JacoSimulation("jaco_reach_top_left", [0], None)
simulation.reset(np.arange(1))
assert not {"OpenGL", "glfw", "mujoco.egl"} & set(sys.modules)
assert os.environ["MUJOCO_GL"] == "egl"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@needs_egl
def test_pictures_equal_dm_controls() -> None:
    """Stock frames equal dm_control's, and fast frames resemble them. Runs in a separate process, which EGL may end."""
    program = """
import os
os.environ["MUJOCO_GL"] = "egl"
import dm_control.mujoco  # with a renderer, which the simulation alone would not import
import numpy as np
from bcvlr_fast.envs.jaco import JacoSimulation
stock, fast = (JacoSimulation("jaco_reach_top_left", [3, 4], rendering) for rendering in ("stock", "fast"))
ids = np.arange(2)
np.testing.assert_array_equal(stock.reset(ids), fast.reset(ids))
pictures = stock.render(ids)
assert pictures.shape == (2, 3, 64, 64) and pictures.dtype == np.uint8
for picture, physics in zip(pictures, stock._physics):
    np.testing.assert_array_equal(picture, physics.render(64, 64, "front_close").transpose(2, 0, 1))
difference = np.abs(fast.render(ids).astype(int) - pictures)
assert 0 < difference.mean() < 1, difference.mean()
np.testing.assert_array_equal(stock.render(ids[1:]), pictures[1:])
stock.close()
fast.close()
for physics in stock._physics:
    physics.free()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_dm_control_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(UserError, match=r"jaco needs the package 'dm_control' \(extra \[dmc\]\)"):
        JacoSimulation("jaco_reach_top_left", [0], None)
