"""PPO compared with plain code, and its resumption."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.wrappers.utils import RunningMeanStd
from torch.distributions import Categorical

from bcvlr_fast.envs import Episode, Step
from bcvlr_fast.experts import measuring, ppo_training
from bcvlr_fast.experts import ppo as ppo_module
from bcvlr_fast.experts.network import ActorCritic, load_network, save_network
from bcvlr_fast.experts.ppo import PPO, PPOConfig, ReturnScale
from bcvlr_fast.system.errors import Diverged, UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import choose_compute
from helpers.commands import invoke

TINY = PPOConfig(num_envs=4, rollout_steps=12, minibatches=3, epochs=2, channels=(4, 4), hidden_dim=16)
COMPUTE = choose_compute(torch.device("cpu"), "fp32")
QUIET = Screen(quiet=True)


@pytest.fixture
def collected() -> PPO:
    ppo = PPO("dodgeball", TINY, COMPUTE, seed=3)
    ppo._collect()
    ppo.reward += torch.randn(ppo.reward.shape, generator=ppo.generator)  # few steps have a reward by themselves
    ppo.ended[5, 1] = ppo.ended[11, 2] = True
    ppo._estimate_advantages()
    return ppo


def plain_values(ppo: PPO, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return ppo.network(frames.float() / 255 - 0.5)


def test_collected_values_and_probabilities_are_the_networks(collected: PPO) -> None:
    logits, value = plain_values(collected, collected.frames.view(-1, 3, 64, 64))
    log_probability = Categorical(logits=logits).log_prob(collected.action.view(-1))
    torch.testing.assert_close(collected.log_probability.view(-1), log_probability, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(collected.value.view(-1), value, rtol=1e-4, atol=1e-5)
    assert len(collected.action.unique()) > 4


class Counting:
    """Environments whose frames show their number and their step; their episodes have 3, 4, ... steps."""

    def __init__(self, _: str, num_envs: int, seed: int) -> None:
        self.first = seed
        self.steps = np.zeros(num_envs, np.int64)
        self.last_reward = np.zeros(num_envs)

    def frames(self, begins: bool = True) -> np.ndarray:
        pixels = np.zeros((len(self.steps), 3, 64, 64), np.uint8)
        pixels[:, 0, 0, 0], pixels[:, 1, 0, 0] = self.first + np.arange(len(self.steps)), self.steps
        pixels[:, 2, 0, 0] = begins
        return pixels

    def reset(self) -> np.ndarray:
        return self.frames()

    def step(self, _: np.ndarray) -> Step:
        number = self.first + np.arange(len(self.steps))
        self.last_reward = 0.01 * number + 0.001 * self.steps
        self.steps += 1
        ended = self.steps % (3 + number) == 0
        return Step(self.frames(begins=False), ended, self.frames()[ended])

    def pop_episodes(self) -> list[Episode]:
        return []


def test_rows_hold_the_reward_and_end_that_follow_their_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two rollouts, frame, reward and end of a row belong to one step, and no action is taken on a last frame."""
    monkeypatch.setattr(ppo_module, "Procgen", Counting)
    ppo = PPO("maze", TINY, COMPUTE, seed=0)
    monkeypatch.setattr(ppo, "scale", lambda reward, *_: reward)
    env = torch.arange(TINY.num_envs).expand(TINY.rollout_steps, -1)
    for rollout in range(2):
        ppo._collect()
        step = (rollout * TINY.rollout_steps + torch.arange(TINY.rollout_steps))[:, None].expand_as(env)
        torch.testing.assert_close(ppo.frames[:, :, 0, 0, 0].long(), env)
        torch.testing.assert_close(ppo.frames[:, :, 1, 0, 0].long(), step)
        torch.testing.assert_close(ppo.frames[:, :, 2, 0, 0].bool(), step % (3 + env) == 0)
        torch.testing.assert_close(ppo.reward, 0.01 * env + 0.001 * step)
        torch.testing.assert_close(ppo.ended, (step + 1) % (3 + env) == 0)


def test_advantages_are_the_sums_of_discounted_errors(collected: PPO) -> None:
    steps, config = TINY.rollout_steps, TINY
    last = torch.cat([half.value_now() for half in collected._halves])
    values = torch.cat([collected.value, last[None]])
    for env in range(TINY.num_envs):
        for step in range(steps):
            expected, weight = 0.0, 1.0
            for t in range(step, steps):
                continues = 0.0 if collected.ended[t, env] else 1.0
                error = collected.reward[t, env] + config.discount * continues * values[t + 1, env] - values[t, env]
                expected += weight * float(error)
                weight *= config.discount * config.gae_lambda * continues
            assert float(collected.advantage[step, env]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_update_is_adam_on_the_clipped_objective(collected: PPO) -> None:
    """Compares two updates with plain PyTorch; in the second one, ratios differ from 1."""
    ppo = collected
    plain = copy.deepcopy(ppo.network)
    adam = torch.optim.Adam(plain.parameters(), TINY.learning_rate, eps=1e-5)
    for rows in (torch.arange(16), torch.arange(8, 24)):
        ppo.index.copy_(rows)
        ppo._learn()
        logits, value = plain(ppo.frames.view(-1, 3, 64, 64)[rows].float() / 255 - 0.5)
        chosen = Categorical(logits=logits)
        advantage = ppo.advantage.view(-1)[rows]
        returns, old = advantage + ppo.value.view(-1)[rows], ppo.value.view(-1)[rows]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        ratio = (chosen.log_prob(ppo.action.view(-1)[rows]) - ppo.log_probability.view(-1)[rows]).exp()
        policy_loss = -torch.min(advantage * ratio, advantage * ratio.clamp(0.8, 1.2)).mean()
        clipped = old + (value - old).clamp(-0.2, 0.2)
        value_loss = torch.max((value - returns) ** 2, (clipped - returns) ** 2).mean() / 2
        loss = policy_loss + 0.5 * value_loss - 0.01 * chosen.entropy().mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        adam.step()
    for ours, theirs in zip(ppo.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def test_rewards_are_scaled_by_the_spread_of_returns() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = ReturnScale(6, 0.99), RunningMeanStd(shape=())
    returns = np.zeros(6)
    for _ in range(50):
        reward, ended = rng.normal(1, 3, 6), rng.random(6) < 0.1
        returns = returns * 0.99 + reward
        theirs.update(returns)
        np.testing.assert_allclose(ours(reward, ended, slice(0, 6)), reward / np.sqrt(theirs.var + 1e-8), rtol=1e-6)
        returns[ended] = 0


def test_a_checkpoint_restores_everything_but_the_episodes() -> None:
    ppo = PPO("maze", TINY, COMPUTE, seed=0)
    ppo.iterate()
    saved = ppo.state_dict()
    other = PPO("maze", TINY, COMPUTE, seed=1)
    other.load_state_dict(copy.deepcopy(saved))
    assert other.frames_done == TINY.batch_frames
    assert (other.scale.mean, other.scale.variance) == (ppo.scale.mean, ppo.scale.variance)
    for one in (ppo, other):  # the same rollout in both
        one.frames.copy_(ppo.frames)
        one.action.copy_(ppo.action)
        one.advantage.copy_(ppo.advantage)
        one.value.copy_(ppo.value)
        one.log_probability.copy_(ppo.log_probability)
        one.index.copy_(torch.randperm(16, generator=one.generator))
        one._learn()
    for a, b in zip(ppo.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_training_resumes(tmp_path: Path) -> None:
    ppo_training.train("maze", TINY.batch_frames, tmp_path, COMPUTE, 0, QUIET, config=TINY).close()
    ppo = ppo_training.train("maze", 3 * TINY.batch_frames, tmp_path, COMPUTE, 0, QUIET, config=TINY)
    assert ppo.frames_done == 3 * TINY.batch_frames
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 3
    with pytest.raises(UserError, match=r"belongs to another expert \(game maze, got miner\)"):
        ppo_training.train("miner", 1, tmp_path, COMPUTE, 0, QUIET, config=TINY)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"most_gradient_norm": settings.pop("max_grad_norm"), "most_reward": settings.pop("max_reward")}
    del settings["stem"], settings["anneal"], settings["value_frames"]
    (tmp_path / "config.json").write_text(json.dumps(settings))  # as older versions wrote them
    ppo_training.train("maze", 1, tmp_path, COMPUTE, 0, QUIET, config=TINY).close()
    for file in tmp_path.glob("ckpt/*/state.json"):
        file.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        ppo_training.train("maze", 1, tmp_path, COMPUTE, 0, QUIET, config=TINY)


def test_the_command_improves_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    file, out = tmp_path / "first.safetensors", tmp_path / "out"
    save_network(file, ActorCritic(TINY), {"env": "procgen:maze", "made_by": "distill"})
    tiny = {"num_envs": 4, "rollout_steps": 12, "minibatches": 3, "epochs": 2, "value_frames": 0}
    monkeypatch.setattr(ppo_training, "_FROM_NETWORK", tiny)
    for name in ("_SCORED_EPISODES", "_CHECK_EPISODES", "_WATCHED_FRAMES"):
        monkeypatch.setattr(measuring, name, 2)
    command = ["--env", "procgen:maze", "--ppo", "--steps", "96", "--start-from", str(file), "--out", str(out)]
    assert f"--videos {out / 'network.safetensors'}" in invoke("expert", *command).stdout
    first, _ = load_network(file)
    network, card = load_network(out / "network.safetensors", "procgen:maze")
    assert not torch.equal(network.policy.weight, first.policy.weight)
    assert (card["made_by"], card["steps"], card["return"]["episodes"]) == ("ppo", 96, 2)
    assert card["started_from"]["made_by"] == "distill"


def test_a_network_to_start_with_is_improved_after_its_value_has_learned(tmp_path: Path) -> None:
    torch.manual_seed(4)
    first = ActorCritic(TINY)
    config = dataclasses.replace(TINY, anneal=True, value_frames=TINY.batch_frames)

    def changed(ppo: PPO) -> set[str]:
        now, before = ppo.network.state_dict(), first.state_dict()
        return {name.split(".")[0] for name in before if not torch.equal(now[name], before[name])}

    ppo = ppo_training.train("maze", TINY.batch_frames, tmp_path, COMPUTE, 0, QUIET, first, config)
    assert changed(ppo) == {"value"}
    ppo.close()
    ppo = ppo_training.train("maze", 2 * TINY.batch_frames, tmp_path, COMPUTE, 0, QUIET, first, config)
    assert changed(ppo) == {"trunk", "policy", "value"}
    assert ppo.optimizer.param_groups[0]["lr"] == config.learning_rate / 2
    ppo.close()
    with pytest.raises(UserError, match=r"belongs to another expert \(start_from "):
        ppo_training.train("maze", 1, tmp_path, COMPUTE, 0, QUIET, ActorCritic(TINY), config)


def test_training_that_diverges_stops_and_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPO, "iterate", lambda *_: {"policy_loss": float("nan"), "value_loss": 0.0})
    with pytest.raises(Diverged, match="a loss is not finite"):
        ppo_training.train("maze", 1, tmp_path, COMPUTE, 0, QUIET, config=TINY)
    assert not (tmp_path / "ckpt").exists()


def test_cloning_first_learns_an_experts_actions() -> None:
    ppo = PPO("maze", TINY, COMPUTE, seed=0)
    frames = torch.randint(0, 256, (60, 3, 64, 64), generator=ppo.generator, dtype=torch.uint8)
    first = ppo.clone(frames, torch.arange(60) % 3, updates=1, batch=32)
    assert ppo.clone(frames, torch.arange(60) % 3, updates=200, batch=32) < 0.5 * first
