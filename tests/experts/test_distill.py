"""Networks distilled from reactive experts: what they minimize, their files, their recordings, and the command."""

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from bcvlr_fast.envs.procgen import Procgen
from bcvlr_fast.envs.scoring import Score
from bcvlr_fast.experts import find_expert, is_expert_file, measuring, playing, simulator
from bcvlr_fast.experts.distill import Collected, Copies, DistillConfig, Student, collect, divergence
from bcvlr_fast.experts.distill_training import distill
from bcvlr_fast.experts.expert import Expert, ExpertEpisode
from bcvlr_fast.experts.network import ActorCritic, NetworkConfig, load_network, logits_for, save_network
from bcvlr_fast.experts.playing import PlayingExpert, sample_actions
from bcvlr_fast.experts.recorder import default_folder, record
from bcvlr_fast.experts.weights import rounded
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.system.workers import worker_pool
from bcvlr_fast.training.compute import choose_compute
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos import open_videos
from helpers.commands import invoke, refusal, run, start, wait_until

COMPUTE = choose_compute(torch.device("cpu"), "fp32")
QUIET = Screen(quiet=True)
SMALL = NetworkConfig(stem=4, channels=(4, 4), hidden_dim=8)
TINY = DistillConfig(
    updates=6, batch_size=8, groups=2, group_copies=1, steps=8, samples_per_frame=1.0, buffer_frames=64, network=SMALL
)
needs_simulator = pytest.mark.skipif(simulator.folder() is None, reason="Procgen's simulator is not installed")


def network_file(file: Path, game: str = "leaper", **card: float) -> ActorCritic:
    """Writes a random network and returns it as it is read."""
    torch.manual_seed(3)
    network = ActorCritic(SMALL)
    with torch.no_grad():
        network.policy.weight.normal_()
    save_network(file, network, {"env": f"procgen:{game}", **card})
    return rounded(network)


def test_the_network_learns_the_softmax_of_the_scores() -> None:
    """Two frames with other best actions; in the second, two actions are equally good."""
    config = dataclasses.replace(TINY, batch_size=32, updates=600, learning_rate=0.01, buffer_frames=40)
    student = Student(config, COMPUTE, seed=0)
    frames = np.zeros((40, 3, 64, 64), np.uint8)
    frames[20:, 0] = 255
    regrets = np.full((40, 15), 10.0, np.float32)
    regrets[:20, 1] = 0.0
    regrets[20:, 2:4] = 0.0
    student.add(Collected(frames, regrets, 0.0, 0.0))
    losses = [student.learn(100) for _ in range(5)]
    assert losses[-1] < 0.05 < losses[0]
    with torch.no_grad():
        logits = student.network(torch.from_numpy(frames[[0, 20]]).float() / 255 - 0.5)[0]
    probabilities = logits.softmax(dim=1)
    assert float(probabilities[0, 1]) > 0.95
    torch.testing.assert_close(probabilities[1, 2:4], torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)


def test_the_oldest_frames_are_replaced() -> None:
    student = Student(TINY, COMPUTE, seed=0)
    for value in range(3):
        frames = np.full((40, 3, 64, 64), value, np.uint8)
        student.add(Collected(frames, np.full((40, 15), value, np.float32), 0.0, 0.0))
    assert student.added == 120
    assert student.frames[:, 0, 0, 0].bincount().tolist() == [0, 24, 40]
    assert torch.equal(student.frames[:, 0, 0, 0].float(), student.regrets[:, 0])


def test_a_network_is_read_as_it_was_rounded(tmp_path: Path) -> None:
    network = network_file(tmp_path / "it.safetensors")
    again, card = load_network(tmp_path / "it.safetensors")
    assert (again.sizes, card["env"]) == (SMALL, "procgen:leaper")
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    for own, other in zip(again.parameters(), network.parameters(), strict=True):
        assert torch.equal(own, other)
    np.testing.assert_array_equal(logits_for(again, frames, COMPUTE), logits_for(network, frames, COMPUTE))


@pytest.mark.parametrize("damage", ["cut", "other card", "other sizes", "other temperature"])
def test_a_damaged_network_is_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "it.safetensors"
    network = network_file(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other card":
        from bcvlr_fast.experts.weights import save_weights

        save_weights(file, network, {"env": "procgen:leaper"})
    elif damage == "other temperature":
        network_file(file, temperature=-1.0)
    else:
        network.sizes = NetworkConfig(stem=8)
        save_network(file, network, {"env": "procgen:leaper"})
    with pytest.raises(UserError, match="not the weights of an expert"):
        find_expert("procgen:leaper", file)


def test_a_network_of_another_game_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "it.safetensors"
    network_file(file)
    assert is_expert_file(file)
    with pytest.raises(UserError, match="of procgen:leaper, expected procgen:maze"):
        find_expert("procgen:maze", file)


class Counting:
    """32 environments whose episodes have 3, 5, 7, ... steps; a frame shows environment, episode and step."""

    num_envs = 32

    def __init__(self, *_: object) -> None:
        self.episode, self.step_number = np.zeros(32, int), np.zeros(32, int)
        self.level = np.arange(32, dtype=np.int32)
        self._ended: list[int] = []

    def frames(self) -> np.ndarray:
        pixels = np.zeros((32, 3, 64, 64), np.uint8)
        pixels[:, 0, 0, 0], pixels[:, 1, 0, 0], pixels[:, 2, 0, 0] = np.arange(32), self.episode, self.step_number
        return pixels

    reset = frames

    def step(self, actions: np.ndarray) -> object:
        from bcvlr_fast.envs import Step

        assert (actions == self.step_number % 15).all()
        self.step_number += 1
        frames = self.frames()
        ended = self.step_number == 3 + 2 * np.arange(32)
        self._ended = np.flatnonzero(ended).tolist()
        self.episode[ended] += 1
        self.level[ended] += 100
        self.step_number[ended] = 0
        return Step(frames, ended, self.frames()[ended])

    def pop_episodes(self) -> list[object]:
        from bcvlr_fast.envs import Episode

        return [Episode(n, float(n), 3 + 2 * n) for n in self._ended]

    def close(self) -> None: ...


def counted(frames: int, steps: int = 0) -> list[ExpertEpisode]:
    expert: Expert = PlayingExpert("procgen:leaper", "it", lambda seen: np.eye(15)[seen[:, 2, 0, 0] % 15], 0.0)
    return list(expert.episodes(frames, steps, "stock"))


def test_episodes_come_in_the_order_in_which_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "Procgen", Counting)
    found = counted(300)
    assert [int(episode.frames[0, 0, 0, 0]) for episode in found] == list(range(len(found)))
    for n, episode in enumerate(found):
        assert episode.frames[:, 2, 0, 0].tolist() == list(range(4 + 2 * n))
        assert episode.actions.tolist() == [step % 15 for step in range(3 + 2 * n)]
        assert (episode.score, episode.level) == (n, n)
    assert sum(len(episode.frames) for episode in found[:-1]) < 300 <= sum(len(episode.frames) for episode in found)


def test_fewer_frames_are_the_beginning_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "Procgen", Counting)
    few, many = counted(100), counted(2000)
    assert len(few) < len(many)
    for one, other in zip(few, many, strict=False):
        np.testing.assert_array_equal(one.frames, other.frames)
    assert all(len(episode.frames) == 4 for episode in counted(50, steps=3))


def test_a_networks_shorter_recording_is_the_beginning_of_a_longer_one(tmp_path: Path) -> None:
    """Also where actions are drawn."""
    network_file(tmp_path / "it.safetensors", temperature=0.5)
    expert = find_expert("procgen:leaper", tmp_path / "it.safetensors")
    short, long = (list(expert.episodes(frames, 0, "stock")) for frames in (100, 700))
    assert len(short) < len(long)
    for one, other in zip(short, long, strict=False):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.actions, other.actions)
        assert (one.score, one.level) == (other.score, other.level)


def test_a_longer_recording_replaces_a_shorter_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCVLR_FAST_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "it.safetensors"
    network_file(file)
    expert = find_expert("procgen:leaper", file)
    folder = default_folder(expert, frames=100)
    assert folder == default_folder(expert, frames=900)
    assert record(expert, frames=100, screen=QUIET) == folder
    short = np.array(open_videos(folder).frames)
    record(expert, frames=700, screen=QUIET)
    videos = open_videos(folder)
    assert len(videos.frames) >= 700 > len(short) >= 100
    np.testing.assert_array_equal(videos.frames[: len(short)], short)
    np.testing.assert_array_equal(videos.first_episodes(100).frames, short)
    written = (folder / "frames.npy").stat().st_mtime_ns
    record(expert, frames=200, screen=QUIET)
    assert (folder / "frames.npy").stat().st_mtime_ns == written
    labels = evaluation_labels.load_labels(folder)
    assert labels is not None
    env = Procgen("leaper", 1, 0, int(labels.level[1]))
    np.testing.assert_array_equal(env.reset()[0], videos.part(1, 2).frames[0])


@needs_simulator
def test_frames_in_which_nothing_has_changed_are_dropped() -> None:
    """A network that rests would see the same frame again and again; random actions take it on."""
    config = dataclasses.replace(TINY, groups=1, level_steps=10**9, steps=60, stretch_steps=1)
    network = ActorCritic(SMALL)
    with torch.no_grad():
        network.policy.bias[simulator.IDLE] = 100.0
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    with worker_pool(1, died="") as pool:
        found = pool.submit(collect, "miner", config, 0, weights, 0.0).result()
    assert 5 < len(found.frames) < 60
    assert (found.frames[1:] != found.frames[:-1]).any(axis=(1, 2, 3)).all()
    with torch.no_grad():
        logits = network(torch.from_numpy(found.frames).float() / 255 - 0.5)[0]
    assert found.loss == pytest.approx(float(divergence(logits, torch.from_numpy(found.regrets))), rel=1e-3)


def _begin_and_renew() -> list[tuple[np.ndarray, bool]]:
    """(frames, whether channels are last) of four copies in two groups at first, after a step, and after the second
    group has begun anew; runs in a worker, for the simulator cannot be beside EnvPool."""
    copies = Copies("plunder", dataclasses.replace(TINY, group_copies=2), np.random.default_rng(0))
    found = [copies.frames]
    copies.step(np.full(4, simulator.LEFT))
    found.append(copies.frames)
    copies.renew(1)
    found.append(copies.frames)
    return [(np.ascontiguousarray(seen), seen.transpose(0, 2, 3, 1).flags.c_contiguous) for seen in found]


@needs_simulator
def test_groups_of_copies_begin_with_other_levels() -> None:
    with worker_pool(1, died="") as pool:
        (first, channels_last), (stepped, _), (renewed, _) = pool.submit(_begin_and_renew).result()
    assert channels_last
    assert len({seen.tobytes() for seen in first}) == 4
    np.testing.assert_array_equal(renewed[:2], stepped[:2])
    assert (renewed[2:] != stepped[2:]).any(axis=(1, 2, 3)).all()
    assert (renewed[2:] != first[2:]).any(axis=(1, 2, 3)).all()


@needs_simulator
def test_levels_change_within_episodes() -> None:
    config = dataclasses.replace(TINY, groups=1, steps=1, level_steps=1)
    weights = {name: value.numpy() for name, value in ActorCritic(SMALL).state_dict().items()}
    with worker_pool(1, died="") as pool:
        found = [pool.submit(collect, "plunder", config, 0, weights, 0.0).result().frames[0] for _ in range(4)]
    legends = {frame[:, 52:, :12].tobytes() for frame in found}
    assert len(legends) > 1


@needs_simulator
def test_a_resumed_distillation_continues(tmp_path: Path) -> None:
    student, _, _ = distill("dodgeball", TINY, tmp_path, COMPUTE, 0, 1, QUIET)
    assert student.done == 6
    weights = student.weights
    again, _, _ = distill("dodgeball", TINY, tmp_path, COMPUTE, 0, 1, QUIET)
    for name, value in again.weights.items():
        np.testing.assert_array_equal(value, weights[name])
    with pytest.raises(UserError, match=r"belongs to another expert \(updates 6, got 9\)"):
        distill("dodgeball", dataclasses.replace(TINY, updates=9), tmp_path, COMPUTE, 0, 1, QUIET)


@needs_simulator
def test_the_command_stops_continues_and_writes_a_card(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    command = ["--env", "procgen:fruitbot", "--distill", "--updates", "60", "--workers", "1", "--out", str(file)]
    stopped = start("expert", *command)
    wait_until(lambda: (tmp_path / "net").exists(), limit_s=60)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(limit_s=30) == 128 + signal.SIGTERM
    assert not file.exists()
    done = run("expert", *command)
    assert done.returncode == 0, done.stderr
    assert "return " in done.stdout
    network, card = load_network(file)
    assert network.sizes == DistillConfig().network
    assert (card["env"], card["updates"], card["made_by"]) == ("procgen:fruitbot", 60, "distill")
    assert json.dumps(card["return"])
    assert 0 <= card["change_rate"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "procgen:maze"], "has no reactive expert of maze"),
        (["--env", "dmc:finger_spin"], "--distill is not for dmc"),
        (["--env", "procgen:fruitbot", "--start-from", "leaper.safetensors"], "of procgen:leaper, expected"),
        (["--env", "procgen:fruitbot", "--start-from", "no.safetensors"], "not the weights of an expert"),
        (["--out", "net.npz"], "out: expected a file named .safetensors"),
        (["--updates", "0"], "updates: expected 1 .."),
    ],
)
def test_bad_input_is_a_one_line_error(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network_file(tmp_path / "leaper.safetensors")
    assert message in refusal(invoke("expert", "--distill", *arguments))


def test_the_bundled_networks_have_cards() -> None:
    for game in playing.available():
        card = playing.card(game)
        assert card["env"] == f"procgen:{game}"
        assert card["return"]["episodes"] >= 256
        assert find_expert(f"procgen:{game}").total_frames is None


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_score_can_be_repeated(tmp_path: Path, temperature: float) -> None:
    network = network_file(tmp_path / "it.safetensors")
    first, second = (measuring.score_network(network, "leaper", COMPUTE, 3, 5, temperature) for _ in range(2))
    assert first == second
    assert first.episodes == 3


def test_the_card_has_the_temperature_that_scores_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*given: float) -> Score:
        temperature = given[-1]
        return Score(10 - abs(temperature - 0.5), 0.1, 9.0, 11.0, 256, 20.0)

    monkeypatch.setattr(measuring, "score_network", score)
    monkeypatch.setattr(measuring, "_WATCHED_FRAMES", 100)
    file = tmp_path / "it.safetensors"
    before = {"made_by": "distill", "temperature": 0.0, "env": "procgen:leaper"}
    measuring.save_measured(file, ActorCritic(SMALL), "leaper", {"made_by": "ppo"}, before, COMPUTE, QUIET)
    card = load_network(file)[1]
    assert (card["temperature"], card["return"]["mean"]) == (0.5, 10)
    assert card["started_from"] == {"made_by": "distill", "temperature": 0.0}


def test_actions_are_drawn_at_a_temperature() -> None:
    logits = np.tile(np.log([0.1, 0.2, 0.7]), (20_000, 1))
    random = np.random.default_rng(0)
    assert (sample_actions(logits, 0.0, random) == 2).all()
    found = np.bincount(sample_actions(logits, 0.5, random)) / len(logits)
    np.testing.assert_allclose(found, np.array([0.01, 0.04, 0.49]) / 0.54, atol=0.01)
    mixed = sample_actions(logits, np.arange(20_000)[:, None] % 2, random)
    assert (mixed[::2] == 2).all()
    np.testing.assert_allclose(np.bincount(mixed[1::2]) / 10_000, [0.1, 0.2, 0.7], atol=0.02)


def test_a_network_plays_at_the_temperature_of_its_card(tmp_path: Path) -> None:
    """Recordings at two temperatures differ, and so do their names; each can be repeated."""
    played = {}
    for temperature in (0.0, 0.5):
        file = tmp_path / f"{temperature}.safetensors"
        network_file(file, temperature=temperature)
        expert = find_expert("procgen:leaper", file)
        first, again = (next(iter(expert.episodes(50, 0, "stock"))).actions for _ in range(2))
        np.testing.assert_array_equal(first, again)
        played[expert.name] = first.tolist()
    assert [name.partition("-")[2] for name in played] == ["", "t0.5"]
    greedy, drawn = played.values()
    assert greedy != drawn
