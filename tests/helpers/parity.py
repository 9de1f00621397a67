"""Runs a task in EnvPool and in dm_control from the same state with the same actions; prints the differences as JSON.

Usage: python tests/helpers/parity.py TASK
"""

import json
import os
import sys

os.environ["MUJOCO_GL"] = "egl"

import numpy as np
from dm_control import suite

from bcvlr_fast.envs.dmc import simulation

STEPS = 60
ACTIONS = {"point_mass_easy": 2, "reacher_hard": 2, "ball_in_cup_catch": 2, "finger_spin": 2, "cheetah_run": 6}


def copy_state(physics: object, state: np.ndarray, task: str) -> None:
    """Sets the positions and velocities of dm_control from EnvPool's first observation."""
    if task == "finger_spin":  # the spinner's angle follows from the position of its tip
        state = np.concatenate([state[:2], [np.arctan2(-state[2], state[3])], state[4:7]])
    positions = {"cheetah_run": slice(1, None)}.get(task, slice(None))
    count = len(physics.data.qpos[positions])
    velocities = len(physics.data.qvel)
    for _ in range(2):  # twice: the reacher's target is relative to the finger's tip, which must be placed first
        if task == "reacher_hard":
            target = state[2:4] + physics.named.data.geom_xpos["finger", :2]
            physics.named.model.geom_pos["target", ["x", "y"]] = target
        with physics.reset_context():
            physics.data.qpos[positions] = state[:count]
            physics.data.qvel[:] = state[-velocities:]


def main(task: str) -> None:
    """Plays the suites one after the other, because their graphics cannot share a thread."""
    ours, env_ids = simulation(task, [7], "stock"), np.zeros(1, np.int32)
    first = ours.reset(env_ids)[0].astype(np.float64)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, ACTIONS[task])).astype(np.float32)
    frames, outcomes = [ours.render(env_ids)[0].transpose(1, 2, 0).astype(int)], []
    state = first
    for step in range(STEPS):
        if task == "point_mass_easy":  # toward the reward
            actions[step] = np.clip(-40 * state[:2] - 20 * state[2:4], -1, 1)
        action = actions[step]
        outcomes.append(ours.step(action[None], env_ids))
        state = outcomes[-1][0][0]
        frames.append(ours.render(env_ids)[0].transpose(1, 2, 0).astype(int))
    ours.close()
    domain, _, name = task.rpartition("_")
    theirs = suite.load(domain, name)
    theirs.reset()
    copy_state(theirs.physics, first, task)
    differences = {"pixels": 0, "state": 0.0, "reward": 0.0, "rewards": 0.0}
    for step in range(STEPS + 1):
        expected = theirs.physics.render(64, 64, camera_id=0).astype(int)
        differences["pixels"] = max(differences["pixels"], int(np.abs(frames[step] - expected).max()))
        if step == STEPS:
            break
        steps = [theirs.step(actions[step].astype(np.float64)) for _ in range(2)]
        states, outcome = outcomes[step]
        flat = np.concatenate([np.ravel(value) for value in steps[-1].observation.values()])
        differences["state"] = max(differences["state"], float(np.abs(states[0, : len(flat)] - flat).max()))
        reward = sum(step.reward for step in steps)
        differences["reward"] = max(differences["reward"], abs(reward - float(outcome.reward[0])))
        differences["rewards"] += reward
    print(json.dumps(differences))


if __name__ == "__main__":
    main(sys.argv[1])
