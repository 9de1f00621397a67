"""Recordings, datasets, and the input that they refuse."""

import contextlib
import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcvlr_fast.envs import PROCGEN_GAMES, make
from bcvlr_fast.experts import find_expert, playing, replaying, replays
from bcvlr_fast.experts.paper import PAPER_EXPERT
from bcvlr_fast.experts.recorder import default_folder, record
from bcvlr_fast.experts.replaying import ReplayExpert, verify
from bcvlr_fast.experts.replays import Replays
from bcvlr_fast.kernels.resize_area import resize_area
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import DatasetWriter, ExpertVideos, Manifest, open_videos, read_manifest
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos.labels import NO_ACTION
from helpers.commands import start, wait_until

SHAPE = (3, 64, 64)


@pytest.fixture
def five_episodes() -> Replays:
    """Short ones; the first is the longest, so that others end before it."""
    whole = replays.load_bundled("coinrun")
    chosen = np.argsort(whole.length)[[100, 0, 1, 2, 3]]
    actions = np.concatenate([whole.episode_actions(int(e)) for e in chosen])
    return Replays("coinrun", whole.level[chosen], whole.length[chosen], actions, whole.episode_return[chosen])


def test_recording_gives_back_the_experts_frames_and_hides_its_actions(
    five_episodes: Replays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two levels are played at a time."""
    monkeypatch.setattr(replaying, "usable_cores", lambda: 1)
    folder = tmp_path / "data"
    record(ReplayExpert(five_episodes), folder, screen=Screen(quiet=True))
    videos = open_videos(folder, SHAPE)
    assert videos.lengths.tolist() == (five_episodes.length + 1).tolist()
    assert sorted(f.name for f in folder.iterdir()) == ["evaluation_only.npz", "frames.npy", "manifest.json"]
    manifest = read_manifest(folder)
    assert (manifest.env, manifest.source) == ("procgen:coinrun", "replays")

    env = make("procgen:coinrun", 1, seed=9, level=int(five_episodes.level[1]))
    frames = [env.reset()[0]]
    frames += [env.step(np.array([a])).frames[0] for a in five_episodes.episode_actions(1)]
    np.testing.assert_array_equal(np.stack(frames), videos.part(1, 2).frames)

    labels = evaluation_labels.load_labels(folder)
    assert labels is not None
    ends = videos.lengths.cumsum() - 1
    assert (labels.action[ends] == NO_ACTION).all()
    np.testing.assert_array_equal(np.delete(labels.action, ends), five_episodes.actions)
    np.testing.assert_array_equal(labels.episode_return, five_episodes.episode_return)


@pytest.mark.parametrize("change", ["return", "actions"])
def test_a_replay_that_differs_is_refused_and_leaves_nothing(
    five_episodes: Replays, tmp_path: Path, change: str
) -> None:
    right = five_episodes
    change_of = {"return": {"episode_return": right.episode_return + 1}, "actions": {"actions": right.actions * 0}}
    wrong = dataclasses.replace(right, **change_of[change])
    with pytest.raises(UserError, match="replay of procgen:coinrun level"):
        record(ReplayExpert(wrong), tmp_path / "data", screen=Screen(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_recording_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = start("record", "--env", "procgen:maze", "--out", str(out))
    wait_until(lambda: any(tmp_path.iterdir()), limit_s=60)
    command.send_signal(signal.SIGTERM)
    assert command.wait(limit_s=30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_one_line_error_and_leaves_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        writer = DatasetWriter(tmp_path / "data", SHAPE)
        os.dup2(full.fileno(), writer._file.fileno())
        with pytest.raises(UserError, match=r"No space left on device; [0-9,]+ bytes are free"):
            writer.append(np.zeros((100, *SHAPE), np.uint8))
        writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_every_game_has_a_bundled_expert_and_its_replays_are_as_good_as_the_papers() -> None:
    assert sorted([*replays.available(), *playing.available()]) == sorted(PROCGEN_GAMES)
    for game in replays.available():
        loaded = replays.load_bundled(game)
        assert loaded.frames >= 100_000
        assert len(np.unique(loaded.level)) == len(loaded.level)
        played = len(loaded.level) + len(loaded.dropped)  # abandoned levels count as a return of zero
        assert loaded.episode_return.sum() / played >= PAPER_EXPERT[game] * 0.95


@pytest.mark.parametrize("game", replays.available())
def test_bundled_replays_play_back_in_envpool(game: str) -> None:
    """Plays the first and the last replay; `python -m bcvlr_fast.expert --verify` plays them all."""
    whole = replays.load_bundled(game)
    for episode in (0, len(whole.level) - 1):
        verify(whole.part(episode, episode + 1), Screen(quiet=True))


def test_a_game_without_replays_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "available", lambda: ("maze",))
    with pytest.raises(UserError, match="give --videos PATH"):
        replays.load_bundled("heist")


def broken(**changes: Any) -> dict[str, Any]:
    one = np.ones(1, np.int32)
    whole = {"game": "maze", "level": one, "length": 3 * one, "actions": np.zeros(3, np.uint8), "episode_return": one}
    return {**whole, **changes}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"game": "chess"}, "not expert replays"),
        (broken(game="chess"), "game: expected a Procgen game, found 'chess'"),
        (broken(actions=np.zeros(4, np.uint8)), "do not match 4 actions"),
        (broken(actions=np.full(3, 15, np.uint8)), "actions: expected 0 .. 14, found 15"),
        (broken(level=np.int32(3)), "level: expected whole numbers"),
        (broken(level=np.ones(1)), "level: expected whole numbers"),
        (broken(extra=np.ones(1)), "not expert replays"),
        (broken(**{name: np.empty(0, np.int32) for name in ("level", "length", "actions", "episode_return")}), "none"),
    ],
)
def test_damaged_replays_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "it.npz", **arrays)
    with pytest.raises(UserError, match=message):
        replays.load_replays(tmp_path / "it.npz")


def test_a_flipped_byte_of_replays_is_refused_or_harmless(tmp_path: Path) -> None:
    file = tmp_path / "it.npz"
    whole = replays.load_bundled("coinrun")
    whole.save(file)
    data = file.read_bytes()
    for at in range(0, len(data), 7):
        file.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        with contextlib.suppress(UserError):  # bytes that the archive does not check are harmless
            replays.load_replays(file, "coinrun")


def test_default_folder_names_environment_source_size_and_seed() -> None:
    folder = default_folder(find_expert("procgen:maze"))
    assert folder.parent == cache_folder() / "videos"
    assert folder.name.startswith("procgen-maze_replays-")
    assert folder.name.endswith("_64x64_s0")


def test_split_is_by_episode(dataset: Path) -> None:
    videos = open_videos(dataset, SHAPE)
    train, held_out = videos.split(0.2)
    assert train.lengths.tolist() == [40, 25, 33]
    assert held_out.lengths.tolist() == [30]
    np.testing.assert_array_equal(np.concatenate([train.frames, held_out.frames]), videos.frames)
    assert len(videos.split(0.0)[1].lengths) == 0
    assert len(videos.split(0.9)[0].lengths) >= 1


@pytest.mark.parametrize(
    ("lengths", "trained"), [([10, 90], 1), ([90, 10], 1), ([10, 10, 80], 2), ([40, 30, 20, 10], 3), ([5] * 20, 18)]
)
def test_split_is_as_close_to_the_fraction_as_episodes_allow(lengths: list[int], trained: int) -> None:
    manifest = Manifest("", "test", lengths, [1, 1, 1])
    videos = ExpertVideos(np.zeros((sum(lengths), 1, 1, 1), np.uint8), manifest, Path("videos"))
    train, held_out = videos.split(0.1)
    assert (len(train.lengths), len(held_out.lengths)) == (trained, len(lengths) - trained)


@pytest.mark.parametrize(("frames", "lengths"), [(65, [40, 25]), (66, [40, 25, 1]), (40, [40]), (1000, [40, 25, 33])])
def test_first_takes_whole_episodes_and_cuts_the_last(frames: int, lengths: list[int]) -> None:
    manifest = Manifest("", "test", [40, 25, 33], [1, 1, 1])
    videos = ExpertVideos(np.arange(98, dtype=np.uint8).reshape(-1, 1, 1, 1), manifest, Path("videos"))
    first = videos.first(frames)
    assert first.lengths.tolist() == lengths
    np.testing.assert_array_equal(first.frames, videos.frames[: sum(lengths)])


@settings(max_examples=20, deadline=None)
@given(h=st.integers(1, 9), w=st.integers(1, 9), height=st.integers(1, 9), width=st.integers(1, 9))
def test_resize_is_the_mean_of_the_covered_area(h: int, w: int, height: int, width: int) -> None:
    frames = np.random.default_rng(h * 9 + w).integers(0, 256, (2, h, w, 3), dtype=np.uint8)
    fine = frames.repeat(height, axis=1).repeat(width, axis=2).astype(np.float64)
    expected = fine.reshape(2, height, h, width, w, 3).mean(axis=(2, 4))
    assert np.abs(resize_area(frames, height, width) - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "damage",
    ["lengths", "one length", "format", "json", "field", "frames", "no bytes", "cut off archive", "missing"],
)
def test_damaged_datasets_are_refused(dataset: Path, damage: str) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    if damage == "lengths":
        manifest["lengths"][0] += 1
    elif damage == "one length":
        manifest["lengths"] = 5
    elif damage == "format":
        manifest["format"] = 99
    elif damage == "field":
        manifest["extra"] = 1
    elif damage == "frames":
        (dataset / "frames.npy").write_bytes(b"\x93NUMPY")
    elif damage == "no bytes":
        (dataset / "frames.npy").write_bytes(b"")
    elif damage == "cut off archive":
        (dataset / "frames.npy").write_bytes(b"PK\x03\x04")
    elif damage == "missing":
        (dataset / "frames.npy").unlink()
    text = "{" if damage == "json" else json.dumps(manifest)
    (dataset / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"^videos: "):
        open_videos(dataset, SHAPE)
