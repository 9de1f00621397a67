"""Trains a policy from the bundled expert's videos and lets it play: the Python API in ten lines.

python examples/train_and_act.py procgen:bossfight
"""

import sys

import bcvlr_fast
from bcvlr_fast.envs import make

env_name = sys.argv[1] if len(sys.argv) > 1 else "procgen:bossfight"
run = bcvlr_fast.train(env=env_name, preset="quick")
policy = bcvlr_fast.load_policy(run)
env = make(env_name, num_envs=8, seed=1)
frames = env.reset()  # [8, 3, 64, 64] uint8
while not (episodes := env.pop_episodes()):
    frames = env.step(policy.act(frames)).next_frames()
print(f"{run}: an episode scored {episodes[0].score:g} in {episodes[0].length_steps} steps")
