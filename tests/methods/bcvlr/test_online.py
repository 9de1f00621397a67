"""Phase 4: exploration, resumption and annealing."""

import dataclasses

import numpy as np
import pytest
import torch

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.data.collector import OtherFrames
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs import make, spec
from bcvlr_fast.envs.budget import Budget
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.online import Online
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.learner import Learner
from helpers.loops import PlainLoop

FP32 = Compute(torch.device("cpu"), torch.float32)
NUM_ENVS = 8


def online_phase(**online: object) -> Online:
    """Phase 4 with a small agent whose policy always takes action 4."""
    narrow = {"impala_channels": (4, 4), "hidden_dim": 8}
    settings: Config = dataclasses.replace(preset("procgen:bossfight", "quick"), seed=3)
    settings = replace_in(settings, "latent_actions", **narrow)
    settings = replace_in(settings, "policy", **narrow)
    settings = replace_in(settings, "online", **{"num_envs": NUM_ENVS, "capacity": 1000, **online})
    agent = Agent(settings, spec("procgen:bossfight"), FP32)
    with torch.no_grad():
        agent.decoder.layers[-1].weight.zero_()
        agent.decoder.layers[-1].bias.fill_(-1e3)
        agent.decoder.layers[-1].bias[4] = 0
    env = Budget(make(settings.first_env, settings.online.num_envs, 0), settings.online.interactions)
    generator = torch.Generator().manual_seed(0)
    videos = FrameStore.from_episodes(np.zeros((20, 3, 64, 64), np.uint8), np.array([20]), FP32.device)
    sampler = WindowSampler(videos, settings.window, generator)
    return Online(settings, agent, agent.acting_policy(), env, sampler)


def collected(probability: float, steps: int, round_: int, calls: int = 60) -> np.ndarray:
    """[calls, NUM_ENVS]: the actions taken in round `round_`."""
    online = online_phase(exploration=probability, exploration_steps=steps)
    online.round = round_
    for _ in range(calls):
        online.collecting.step(online.collecting.collector.envs_to_step(online.env.interactions), round_)
    online.env.close()
    return np.asarray(online.collecting.state_dict()["actions"]).reshape(calls, NUM_ENVS)


@pytest.mark.parametrize("steps", [1, 6])
def test_random_actions_are_held_and_uniform(steps: int) -> None:
    actions = collected(0.0, steps, round_=0).reshape(-1, steps, NUM_ENVS)
    assert (actions == actions[:, :1]).all()
    chosen = actions[:, 0]
    assert len(np.unique(chosen)) == 15 if steps == 1 else len(np.unique(chosen)) > 8
    assert (chosen[1:] != chosen[:-1]).mean() > 0.8


def test_later_rounds_explore_with_the_set_probability() -> None:
    assert (collected(0.0, 1, round_=1) == 4).all()
    actions = collected(0.5, 6, round_=1).reshape(-1, 6, NUM_ENVS)
    assert (actions == actions[:, :1]).all()
    assert 0.3 < (actions[:, 0] != 4).mean() < 0.65


@pytest.mark.parametrize(("num_envs", "stop"), [(7, 300), (7, 263), (48, 300), (120, 300)])
def test_the_action_log_restores_environments_and_replay(num_envs: int, stop: int) -> None:
    """Also where the environments do not divide a round of 100, so that each ends in a short call."""
    phases = (online_phase(num_envs=num_envs, round_interactions=100, interactions=300) for _ in range(2))
    first, second = (phase.collecting for phase in phases)
    ends, round_ = [100, 200, 300], 0
    while first.interactions < stop:
        if first.interactions == ends[round_]:
            first.env.drop_episodes()
            round_ += 1
        first.step(first.collector.envs_to_step(ends[round_]), round_)
    assert stop < 300 or first.interactions == stop
    second.load_state_dict(first.state_dict())
    second.rebuild(PlainLoop(), round_is_logged=False)
    assert second.interactions == first.interactions
    np.testing.assert_array_equal(first.collector.frames, second.collector.frames)
    np.testing.assert_array_equal(first.replay.action, second.replay.action)
    assert torch.equal(first.replay.store.frames, second.replay.store.frames)
    np.testing.assert_array_equal(first.replay.store.position, second.replay.store.position)
    episodes = [collecting.env._env.pop_episodes() for collecting in (first, second)]
    assert episodes[0] == episodes[1]


def test_other_frames_than_before_are_refused() -> None:
    first, second = (online_phase(interactions=100, round_interactions=100).collecting for _ in range(2))
    first.step(first.collector.envs_to_step(100), 0)
    second.load_state_dict({**first.state_dict(), "frames": "another digest"})
    with pytest.raises(OtherFrames):
        second.rebuild(PlainLoop(), round_is_logged=False)


@pytest.mark.parametrize("anneal", [False, True])
def test_only_the_last_round_anneals(anneal: bool) -> None:
    online = online_phase(interactions=300, round_interactions=100, clone_anneal=anneal, finetune_updates=0)
    annealed = []

    class Watch(PlainLoop):
        def train(self, learner: Learner, title: str, part: str = "") -> dict[str, float]:  # noqa: ARG002
            if isinstance(learner, Cloning):
                annealed.append(learner.anneals)
            return {}

    online.run(Watch())
    online.env.close()
    assert annealed == [False, False, anneal]


def test_the_world_model_takes_no_gradients() -> None:
    online = online_phase()
    assert not any(p.requires_grad for p in online.agent.world_model.parameters())
