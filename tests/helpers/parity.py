"""python tests/parity.py TASK: a task in EnvPool and in dm_control from one state, with the same actions, as JSON."""

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
    """Gives dm_control the positions and velocities that EnvPool's first observation tells."""
    if task == "finger_spin":  # the spinner's turn, of which its tip's position tells
        state = np.concatenate([state[:2], [np.arctan2(-state[2], state[3])], state[4:7]])
    positions = {"cheetah_run": slice(1, None)}.get(task, slice(None))
    count = len(physics.data.qpos[positions])
    velocities = len(physics.data.qvel)
    for _ in range(2):  # twice, for the reacher's target is told from the finger's tip, which must be there first
        if task == "reacher_hard":
            target = state[2:4] + physics.named.data.geom_xpos["finger", :2]
            physics.named.model.geom_pos["target", ["x", "y"]] = target
        with physics.reset_context():
            physics.data.qpos[positions] = state[:count]
            physics.data.qvel[:] = state[-velocities:]


def main(task: str) -> None:
    """One suite after the other: their graphics do not mix in one thread."""
    ours, only = simulation(task, [7], "stock"), np.zeros(1, np.int32)
    first = ours.reset(only)[0].astype(np.float64)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, ACTIONS[task])).astype(np.float32)
    frames, played = [ours.render(only)[0].transpose(1, 2, 0).astype(int)], []
    state = first
    for step in range(STEPS):
        if task == "point_mass_easy":  # to where the reward is
            actions[step] = np.clip(-40 * state[:2] - 20 * state[2:4], -1, 1)
        action = actions[step]
        played.append(ours.step(action[None], only))
        state = played[-1][0][0]
        frames.append(ours.render(only)[0].transpose(1, 2, 0).astype(int))
    ours.close()
    domain, _, name = task.rpartition("_")
    theirs = suite.load(domain, name)
    theirs.reset()
    copy_state(theirs.physics, first, task)
    found = {"pixels": 0, "state": 0.0, "reward": 0.0, "rewards": 0.0}
    for step in range(STEPS + 1):
        wanted = theirs.physics.render(64, 64, camera_id=0).astype(int)
        found["pixels"] = max(found["pixels"], int(np.abs(frames[step] - wanted).max()))
        if step == STEPS:
            break
        steps = [theirs.step(actions[step].astype(np.float64)) for _ in range(2)]
        states, outcome = played[step]
        flat = np.concatenate([np.ravel(value) for value in steps[-1].observation.values()])
        found["state"] = max(found["state"], float(np.abs(states[0, : len(flat)] - flat).max()))
        reward = sum(step.reward for step in steps)
        found["reward"] = max(found["reward"], abs(reward - float(outcome.reward[0])))
        found["rewards"] += reward
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
