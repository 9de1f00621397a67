"""SAC, experts that act on states, and their recordings."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from bcvlr_fast.envs import make, spec
from bcvlr_fast.envs.simulated import Simulated
from bcvlr_fast.envs.simulation import Outcome
from bcvlr_fast.experts import Expert, acting, find_expert, sac, sac_training, trained, weights
from bcvlr_fast.experts.acting import ActingExpert
from bcvlr_fast.experts.recorder import default_folder, record
from bcvlr_fast.experts.sac import Actor, Sac, SacConfig, StateReplay, Transitions, TwinCritic
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.runs import expert_videos as training_videos
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import MANIFEST, open_videos, read_manifest
from bcvlr_fast.videos import labels as evaluation_labels
from helpers.commands import invoke, refusal
from helpers.egl import needs_egl

QUIET = Screen(quiet=True)


def test_log_probabilities_are_those_of_a_squashed_normal() -> None:
    torch.manual_seed(0)
    actor = Actor(3, 2, 16)
    states = torch.randn(64, 3)
    actions, log_probability = actor.sample(states)
    mean, log_std = actor(states)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    expected = Independent(squashed, 1).log_prob(actions.clamp(-1 + 1e-6, 1 - 1e-6))
    torch.testing.assert_close(log_probability, expected, rtol=1e-3, atol=1e-3)


def test_the_twin_critic_is_two_networks() -> None:
    torch.manual_seed(0)
    critic = TwinCritic(3, 2, 8)
    states, actions = torch.randn(5, 3), torch.randn(5, 2)
    for i in range(2):
        x = torch.cat([states, actions], dim=1)
        for layer, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            x = (x if layer == 0 else nn.functional.layer_norm(x, (8,)).relu()) @ weight[i] + bias[i]
        torch.testing.assert_close(critic(states, actions)[i], x[:, 0])


def test_an_update_of_the_critics_is_the_soft_bellman_error() -> None:
    torch.manual_seed(0)
    sac = Sac(3, 2, SacConfig(1, hidden_dim=8, actor_every=2))
    sac._updates = 1  # the actor is updated on the next call
    batch = Transitions(torch.randn(6, 3), torch.rand(6, 2) * 2 - 1, torch.rand(6), torch.randn(6, 3))
    before = {n: p.clone() for n, p in sac.critic.named_parameters()}
    state = torch.get_rng_state()
    sac.update(batch)
    critic, frozen = TwinCritic(3, 2, 8), TwinCritic(3, 2, 8)
    for network in (critic, frozen):  # the target starts as a copy
        network.load_state_dict(before)
    torch.set_rng_state(state)
    with torch.no_grad():
        following, log_probability = sac.actor.sample(sac.actor.normalize(batch.next_states))
        value = frozen(sac.actor.normalize(batch.next_states), following).amin(dim=0) - 0.1 * log_probability
        expected = batch.reward + 0.99 * value
    q = critic(sac.actor.normalize(batch.states), batch.actions)
    ((q[0] - expected) ** 2 + (q[1] - expected) ** 2).mean().backward()
    for actual, plain in zip(sac.critic.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, plain.grad, rtol=1e-4, atol=1e-6)
    moved = [nn.utils.parameters_to_vector(m.parameters()) for m in (sac.target, sac.critic, critic)]
    torch.testing.assert_close(moved[0], moved[2] + 0.01 * (moved[1] - moved[2]), rtol=1e-4, atol=1e-6)


def test_the_replay_drops_the_oldest_first() -> None:
    replay = StateReplay(4, 1, 1)
    for n in range(6):
        one = np.full((1, 1), n, np.float32)
        replay.append(one, one, one[0], one + 1)
    drawn = replay.draw(200)
    assert set(drawn.states.flatten().tolist()) == {2, 3, 4, 5}
    assert torch.equal(drawn.next_states, drawn.states + 1)


class Dot:
    """Simulation of a dot that actions push and that is rewarded near the center; episodes have 20 steps."""

    def __init__(self, _: str, seeds: list[int]) -> None:
        self.random = np.random.default_rng(seeds)
        self.at, self.step_number = np.zeros((len(seeds), 2), np.float32), 0

    def reset(self, ids: np.ndarray) -> np.ndarray:
        self.at[ids], self.step_number = self.random.uniform(-1, 1, (len(ids), 2)), 0
        return self.at[ids].copy()

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, Outcome]:
        self.at[ids] += 0.2 * actions
        self.step_number += 1
        ended = np.full(len(ids), self.step_number == 20)
        near = np.exp(-4 * (self.at[ids] ** 2).sum(axis=1)).astype(np.float64)
        return self.at[ids].copy(), Outcome(near, ended, np.zeros(len(ids), bool))

    def close(self) -> None: ...


@pytest.mark.usefixtures("threads")
def test_training_learns_and_returns_its_best_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sac_training, "simulation", Dot)
    torch.set_num_threads(1)
    settings = SacConfig(updates=600, num_envs=16, random_steps=1000, evaluate_every=100, hidden_dim=32, batch_size=64)
    actor, curve = sac_training.train("dmc:point_mass_easy", settings, 0, QUIET)
    assert [interactions for interactions, _ in curve] == sorted(interactions for interactions, _ in curve)
    scores = [score for _, score in curve]
    assert max(scores) > 16 > 2 * scores[0]  # of 20; random actions get 5
    mean_return = sac_training.returns(actor, "dmc:point_mass_easy", 20, seed=3).mean()
    assert mean_return == pytest.approx(max(scores), abs=1.5)
    file = tmp_path / "weights.safetensors"
    weights.save_weights(file, actor, {"env": "dmc:point_mass_easy"})
    again, _ = sac.load_actor(file)
    states = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.testing.assert_allclose(again.act(states), actor.act(states), atol=0.02)
    assert find_expert("dmc:point_mass_easy", file).env == "dmc:point_mass_easy"
    with pytest.raises(UserError, match="of dmc:point_mass_easy, expected dmc:reacher_hard"):
        find_expert("dmc:reacher_hard", file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="not the weights of an expert"):
        sac.load_actor(file)


@pytest.mark.parametrize("task", trained.available())
def test_bundled_experts_score_as_their_cards_say(task: str) -> None:
    card = trained.card(task)
    actor = trained.bundled(f"dmc:{task}").act.__self__  # type: ignore[attr-defined]
    returns = sac_training.returns(actor, f"dmc:{task}", 4, seed=11)
    assert card["env"] == f"dmc:{task}"
    assert np.median(returns) > 0.8 * card["return"]["mean"]


def test_scripted_experts_open_the_drawer() -> None:
    pytest.importorskip("metaworld")
    expert = find_expert("metaworld:drawer-open")
    assert isinstance(expert, ActingExpert)
    env = make("metaworld:drawer-open", 2, 3, blind=True)
    env.reset()
    while not (episodes := env.pop_episodes()):
        env.step(expert.act(env.states))  # type: ignore[attr-defined]
    assert [episode.score for episode in episodes] == [1.0, 1.0]


def test_without_an_expert_one_line_says_how_to_get_one() -> None:
    with pytest.raises(UserError, match=r"no expert is bundled for dmc:humanoid_walk .*--sac; bundled: .*reacher_hard"):
        find_expert("dmc:humanoid_walk")
    with pytest.raises(UserError, match=r"no expert is bundled for gym:CartPole-v1 .give --videos PATH"):
        find_expert("gym:CartPole-v1")


def recorded(expert: Expert, frames: int, steps: int, folder: Path) -> Path:
    return record(expert, folder, frames=frames, steps=steps, rendering="fast", screen=QUIET)


@pytest.mark.parametrize("name", ["dmc:point_mass_easy", "metaworld:reach"])
def test_folders_are_named_by_what_frames_depend_on(name: str) -> None:
    """Names match those of recordings that are already in caches."""
    if name.startswith("metaworld"):
        pytest.importorskip("metaworld")
    expert = find_expert(name)
    start = f"{name.replace(':', '-')}_{expert.name}"
    for steps, part in ((0, "900"), (75, "900_75")):
        folder = default_folder(expert, frames=900, steps=steps, rendering="fast")
        assert re.fullmatch(rf"{start}_{part}_fast-[0-9a-f]{{8}}_64x64", folder.name)
    dry = record(expert, frames=900, steps=0, rendering="stock", screen=QUIET, dry_run=True)
    assert re.fullmatch(rf"{start}_900_stock-[0-9a-f]{{8}}_64x64", dry.name)
    assert not dry.exists()


@needs_egl
def test_a_recording_is_whole_episodes_with_labels_apart(tmp_path: Path) -> None:
    expert = find_expert("dmc:point_mass_easy")
    folder = recorded(expert, 600, 0, tmp_path / "videos")
    manifest = read_manifest(folder)
    videos, labels = open_videos(folder, (3, 64, 64)), evaluation_labels.load_labels(folder)
    assert labels is not None
    assert (manifest.lengths, manifest.rendering, manifest.env) == ([501, 501], "fast", "dmc:point_mass_easy")
    ends = videos.lengths.cumsum() - 1
    assert np.isnan(labels.action[ends]).all()
    assert np.isfinite(np.delete(labels.action, ends, axis=0)).all()
    assert (labels.episode_return > 500).all()
    # Environments of the same seed start in the same states, and the actions lead to the recorded frames.
    env = make("dmc:point_mass_easy", acting.recording_envs(600), acting.RECORDING_SEED, rendering="fast")
    frames = [env.reset()[0]]
    for action in labels.action[:20]:
        frames.append(env.step(action[None], np.zeros(1, np.int64)).frames[0])
    env.close()
    np.testing.assert_array_equal(videos.frames[:21], np.stack(frames))
    assert recorded(expert, 600, 0, folder) == folder  # reused, not recorded again
    settings = Config(env=("dmc:point_mass_easy",), rendering="stock")
    with pytest.raises(UserError, match="drawn with rendering fast, this run draws with stock"):
        training_videos.open_matching(settings, folder)
    saved = json.loads((folder / MANIFEST).read_text())
    assert saved["rendering"] == "fast"


@needs_egl
def test_a_recording_of_first_steps_keeps_the_scores_of_whole_episodes(tmp_path: Path) -> None:
    expert = find_expert("dmc:point_mass_easy")
    whole = recorded(expert, 501, 0, tmp_path / "whole")
    first = recorded(expert, 82, 40, tmp_path / "first")
    assert read_manifest(first).lengths == [41, 41]
    frames = [open_videos(folder, (3, 64, 64)).frames for folder in (whole, first)]
    np.testing.assert_array_equal(frames[1][:41], frames[0][:41])
    expected, labels = evaluation_labels.load_labels(whole), evaluation_labels.load_labels(first)
    assert expected is not None
    assert labels is not None
    np.testing.assert_array_equal(labels.action[:40], expected.action[:40])
    assert labels.episode_return[0] == expected.episode_return[0]
    assert (labels.episode_return > 500).all()


@needs_egl
def test_films_of_metaworld_end_soon_after_success(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    env, steps = "metaworld:reach", acting.STEPS_AFTER_SUCCESS
    folder = recorded(find_expert(env), 300, 0, tmp_path / "videos")
    videos, labels = open_videos(folder, (3, 64, 64)), evaluation_labels.load_labels(folder)
    assert labels is not None
    assert len(videos.lengths) > 3
    assert (labels.episode_return == 1).all()
    again = make(env, acting.recording_envs(300), acting.RECORDING_SEED, rendering="fast")
    assert isinstance(again, Simulated)
    again.reset()
    start = 0
    for length in videos.lengths:  # each episode starts from a reset and ends that many steps after success
        frames, actions = videos.frames[start : start + length], labels.action[start : start + length - 1]
        successes = []
        for frame, action in zip(frames[1:], actions, strict=True):
            np.testing.assert_array_equal(again.step(action[None]).frames[0], frame)
            successes.append(again.last_success[0])
        assert successes.index(True) == len(actions) - 1 - steps
        start += length
        if start < len(videos.frames):
            np.testing.assert_array_equal(again.reset(np.zeros(1, np.int64))[0], videos.frames[start])
    again.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "dmc:finger_spin"), "expected one of --planner, --distill, --ppo, --sac, --list"),
        (("--env", "dmc:finger_spin", "--ppo"), "--ppo is not for dmc (it makes experts of procgen)"),
        (("--env", "procgen:maze", "--sac"), "--sac is not for procgen (it makes experts of dmc, metaworld)"),
        (("--env", "gym:CartPole-v1", "--sac"), "--sac is not for gym"),
        (("--env", "gym:CartPole-v1", "--planner"), "--planner is not for gym"),
        (("--env", "dmc:finger_spin", "--sac", "--updates", "0"), "updates: expected 1"),
    ],
)
def test_bad_input_is_a_one_line_error(arguments: tuple[str, ...], message: str) -> None:
    assert message in refusal(invoke("expert", *arguments))


def test_tasks_with_unusual_names_match_their_spec() -> None:
    for name in ("dmc:jaco_reach_top_left", "dmc:swimmer_swimmer15", "metaworld:pick-place", "dmc:lqr_lqr_2_1"):
        env = make(name, 1, 0, blind=True)
        env.reset()
        action = spec(name).actions.draw(np.random.default_rng(0), 1)
        assert env.step(action).frames.shape == (1, 3, 64, 64)
        env.close()
