"""pytest tests/test_online.py: who acts when."""

import dataclasses

import numpy as np
import pytest
import torch

from bcvlr_fast import config
from bcvlr_fast.agent import Agent
from bcvlr_fast.compute import Compute
from bcvlr_fast.config import Config, replace_in
from bcvlr_fast.envs import make
from bcvlr_fast.online import Online

FP32 = Compute(torch.device("cpu"), torch.float32)
NUM_ENVS = 8


def collected(share: float, steps: int, round_: int, calls: int = 60) -> np.ndarray:
    """[calls, NUM_ENVS] actions of a policy that always takes action 4."""
    narrow = {"impala_channels": (4, 4), "hidden_dim": 8}
    settings: Config = dataclasses.replace(config.preset("procgen:bossfight", "quick"), seed=3)
    settings = replace_in(settings, "latent_actions", **narrow)
    settings = replace_in(settings, "policy", **narrow)
    settings = replace_in(
        settings, "online", num_envs=NUM_ENVS, exploration=share, exploration_steps=steps, capacity=1000
    )
    agent = Agent(settings, (3, 64, 64), 15, FP32)
    with torch.no_grad():
        agent.decoder.layers[-1].weight.zero_()
        agent.decoder.layers[-1].bias.fill_(-1e3)
        agent.decoder.layers[-1].bias[4] = 0
    env = make(settings.env, NUM_ENVS, 0)
    online = Online(settings, agent, env, None, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    online.round = round_
    for _ in range(calls):
        online.collect_step()
    env.close()
    return online.collector.taken().reshape(calls, NUM_ENVS)


@pytest.mark.parametrize("steps", [1, 6])
def test_random_actions_are_held_and_uniform(steps: int) -> None:
    held = collected(0.0, steps, round_=0).reshape(-1, steps, NUM_ENVS)
    assert (held == held[:, :1]).all()
    chosen = held[:, 0]
    assert len(np.unique(chosen)) == 15 if steps == 1 else len(np.unique(chosen)) > 8
    assert (chosen[1:] != chosen[:-1]).mean() > 0.8


def test_later_rounds_explore_in_the_share_asked_for() -> None:
    assert (collected(0.0, 1, round_=1) == 4).all()
    own = collected(0.5, 6, round_=1).reshape(-1, 6, NUM_ENVS)
    assert (own == own[:, :1]).all()
    assert 0.3 < (own[:, 0] != 4).mean() < 0.65
