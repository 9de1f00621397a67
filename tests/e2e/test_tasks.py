"""Several tasks, offline decoding, fewer video frames."""

import dataclasses
import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.runs.expert_videos import open_matching, open_run_videos
from bcvlr_fast.runs.labeled import labeled_replay
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training import metrics_log as logger
from bcvlr_fast.videos import DatasetWriter, ExpertVideos, Manifest, open_videos, read_manifest
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos.joining import join_datasets
from helpers.tiny import TINY, command, run, wait_until

SHAPE = (3, 64, 64)
QUIET = Screen(quiet=True)


def noise(folder: Path, env: str, lengths: list[int]) -> Path:
    writer = DatasetWriter(folder, SHAPE)
    rng = np.random.default_rng(len(env))
    writer.append(rng.integers(0, 256, (sum(lengths), *SHAPE), dtype=np.uint8))
    writer.commit(Manifest(env, "test", lengths, list(SHAPE)))
    return folder


def drawn_as(dataset: Path, rendering: str) -> None:
    manifest = dataset / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "rendering": rendering}))


def weights(folder: Path) -> dict[str, np.ndarray]:
    saved, _ = checkpoint.load_newest(folder / "ckpt")
    assert saved is not None
    return {name: value.numpy() for name, value in saved["agent"].items()}


def test_tasks_of_other_actions_are_refused_at_once(tmp_path: Path) -> None:
    done = run("--env", "dmc:finger_spin", "dmc:cheetah_run_backward", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "dmc:cheetah_run_backward has other frames or actions than dmc:finger_spin" in done.stderr
    assert not (tmp_path / "run").exists()


def test_tasks_share_one_pretraining_and_go_on_after_a_stop(tmp_path: Path) -> None:
    miner = noise(tmp_path / "miner", "procgen:miner", [30, 30, 30])
    maze = noise(tmp_path / "maze", "procgen:maze", [30, 30, 30])
    envs, out = ["procgen:miner", "procgen:maze"], tmp_path / "run"
    arguments = [
        *TINY,
        "--env",
        *envs,
        "--videos",
        str(miner),
        str(maze),
        "--online.interactions",
        "300",
        "--out",
        str(out),
    ]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    parts = {"pretraining", "procgen-miner", "procgen-maze"}
    assert {path.name for path in out.iterdir()} == {"config.json", "status.json", *parts}
    before = weights(out / "pretraining")
    for game in ("miner", "maze"):
        own = out / f"procgen-{game}"
        assert json.loads((own / "config.json").read_text())["env"] == [f"procgen:{game}"]
        assert (own / "report.html").exists()
        stages = {row.get("stage") for row in logger.read_metrics(own)}
        assert "features" not in stages
        assert "finetuning" in stages
        after = weights(own)
        assert all((after[name] == before[name]).all() for name in after if name.startswith("encoder."))
        assert any((after[name] != before[name]).any() for name in after if name.startswith("policy."))
    (out / "procgen-maze" / "status.json").unlink()
    done = run("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert "procgen-maze" in done.stdout
    assert "procgen:miner, run folder" not in done.stdout
    assert (out / "procgen-maze" / "status.json").exists()


def test_as_many_videos_as_tasks(tmp_path: Path) -> None:
    one = noise(tmp_path / "one", "procgen:miner", [30, 30])
    arguments = ["--env", "procgen:miner", "procgen:maze", "procgen:heist", "--videos", str(one), str(one)]
    done = run(*arguments, "--preset", "quick", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "expected 3 paths, one for each environment, got 2" in done.stderr
    assert not (tmp_path / "run").exists()


def test_joined_datasets_hold_out_episodes_of_each(tmp_path: Path) -> None:
    folders = [noise(tmp_path / str(i), f"procgen:{g}", [20, 30, 30]) for i, g in enumerate(("miner", "maze"))]
    joined = open_videos(join_datasets(folders, 0.2, 0, QUIET), SHAPE)
    one, two = (open_videos(folder, SHAPE).frames for folder in folders)
    train, held_out = joined.split(0.2)
    assert (train.lengths.tolist(), held_out.lengths.tolist()) == ([20, 30, 20, 30], [30, 30])
    np.testing.assert_array_equal(train.frames, np.concatenate([one[:50], two[:50]]))
    np.testing.assert_array_equal(held_out.frames, np.concatenate([one[50:], two[50:]]))


def test_joined_datasets_are_drawn_alike(tmp_path: Path) -> None:
    """As far as it is known: films that were imported do not say."""
    one, two = (noise(tmp_path / name, "procgen:miner", [30, 30]) for name in ("one", "two"))
    drawn_as(two, "fast")
    assert read_manifest(join_datasets([one, two], 0.1, 0, QUIET)).rendering == "fast"
    drawn_as(one, "stock")
    with pytest.raises(UserError, match="expected all to be drawn alike"):
        join_datasets([one, two], 0.1, 0, QUIET)


def test_fewer_frames_are_of_each_joined_dataset(tmp_path: Path) -> None:
    folders = [noise(tmp_path / str(i), f"procgen:{g}", [20, 30, 10]) for i, g in enumerate(("miner", "maze"))]
    wanted = Config(env=("procgen:miner", "procgen:maze"), held_out=0.2, video_frames=40)
    joined = join_datasets(folders, wanted.held_out, wanted.video_frames, QUIET)
    videos = open_run_videos(wanted, joined, 4)
    assert [*videos.train.lengths, *videos.held_out.lengths] == [20, 20, 20, 20]


def test_offline_decoding_needs_no_interaction(dataset: Path, tmp_path: Path) -> None:
    arguments = ["--videos", str(dataset), "--labels", str(dataset), "--labelled-frames", "120"]
    done = run(*TINY, *arguments, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    rows = logger.read_metrics(tmp_path / "run")
    assert {"finetuning", "cloning", "evaluation"} <= {row.get("stage") for row in rows}
    assert not [row for row in rows if row.get("stage") == "round"]
    finetuned = [row["accuracy"] for row in rows if row.get("stage") == "finetuning"]
    assert len(finetuned) == 3  # rounds


@pytest.mark.parametrize("damage", ["environment", "rendering", "count", "inside"])
def test_labels_must_be_of_the_run(dataset: Path, damage: str) -> None:
    labels = evaluation_labels.load_labels(dataset)
    assert labels is not None
    settings = Config(env=("procgen:bossfight",), labels=dataset, labelled_frames=100)
    said = {
        "environment": "were recorded in",
        "rendering": "were drawn with rendering fast",
        "count": "is not of these videos",
        "inside": "within episodes actions: expected 0..14, got 0..255",
    }
    if damage == "environment":
        settings = dataclasses.replace(settings, env=("procgen:maze",))
    elif damage == "rendering":
        drawn_as(dataset, "fast")
    elif damage == "count":
        dataclasses.replace(labels, action=labels.action[:-1]).save(dataset)
    else:
        labels.action[3] = 255
        labels.save(dataset)
    with pytest.raises(UserError, match=said[damage]):
        labeled_replay(settings, Screen(quiet=True))


def test_a_stop_in_the_pretraining_says_what_to_go_on_with(tmp_path: Path) -> None:
    miner = noise(tmp_path / "miner", "procgen:miner", [30, 30, 30])
    out, envs = tmp_path / "run", ["procgen:miner", "procgen:maze"]
    arguments = [
        *TINY,
        "--env",
        *envs,
        "--videos",
        str(miner),
        str(miner),
        "--policy.updates",
        "100000",
        "--out",
        str(out),
    ]
    (miner / "manifest.json").write_text((miner / "manifest.json").read_text().replace("procgen:miner", ""))
    process = subprocess.Popen(command("train", *arguments), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (out / "pretraining" / "ckpt").exists(), 120)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.read().splitlines()[-1].endswith(f"--resume {out}")
    assert process.wait() == 130


def test_offline_decoding_wants_labels(dataset: Path, tmp_path: Path) -> None:
    bare = noise(tmp_path / "bare", "procgen:bossfight", [60, 60])
    for labels, said in ((bare, "expected a dataset with 15 discrete actions"), (dataset, "expected 10,000 frames")):
        out = tmp_path / "run"
        done = run(*TINY, "--videos", str(dataset), "--labels", str(labels), "--out", str(out))
        assert done.returncode == 2
        assert said in done.stderr


@pytest.mark.parametrize(("frames", "lengths"), [(65, [40, 25]), (66, [40, 25, 1]), (40, [40]), (1000, [40, 25, 33])])
def test_fewer_frames_are_the_first(frames: int, lengths: list[int]) -> None:
    manifest = Manifest("", "test", [40, 25, 33], [1, 1, 1])
    videos = ExpertVideos(np.arange(98, dtype=np.uint8).reshape(-1, 1, 1, 1), manifest, Path("videos"))
    first = videos.first(frames)
    assert first.lengths.tolist() == lengths
    np.testing.assert_array_equal(first.frames, videos.frames[: sum(lengths)])


def test_a_run_on_fewer_frames_without_films_says_so(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fewer = ["--video-frames", "98", "--films", "0", "--online.interactions", "240"]
    done = run(*TINY, "--videos", str(dataset), *fewer, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "videos: 3 episodes, 98 frames" in done.stdout
    assert "films=0" in (out / "report.html").read_text()
    assert not (out / "videos").exists()


def test_labels_of_another_number_of_frames_are_found(dataset: Path, tmp_path: Path) -> None:
    other = noise(tmp_path / "other", "procgen:bossfight", [60, 60])
    (other / "evaluation_only.npz").write_bytes((dataset / "evaluation_only.npz").read_bytes())
    with pytest.raises(UserError, match="is not of these videos"):
        open_matching(Config(), other)
