"""The videos and labels of a run are joined, shortened, and refused if they belong to another task."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.runs.expert_videos import open_matching, open_run_videos
from bcvlr_fast.runs.labeled import labeled_replay
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos import open_videos, read_manifest
from bcvlr_fast.videos.joining import join_datasets
from helpers.noise import SHAPE, noise

FP32 = Compute(torch.device("cpu"), torch.float32)
QUIET = Screen(quiet=True)


def set_rendering(dataset: Path, rendering: str) -> None:
    manifest = dataset / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "rendering": rendering}))


def test_joined_datasets_hold_out_episodes_of_each(tmp_path: Path) -> None:
    folders = [noise(tmp_path / str(i), f"procgen:{g}", [20, 30, 30]) for i, g in enumerate(("miner", "maze"))]
    joined = open_videos(join_datasets(folders, 0.2, 0, QUIET), SHAPE)
    one, two = (open_videos(folder, SHAPE).frames for folder in folders)
    train, held_out = joined.split(0.2)
    assert (train.lengths.tolist(), held_out.lengths.tolist()) == ([20, 30, 20, 30], [30, 30])
    np.testing.assert_array_equal(train.frames, np.concatenate([one[:50], two[:50]]))
    np.testing.assert_array_equal(held_out.frames, np.concatenate([one[50:], two[50:]]))


def test_joined_datasets_must_have_the_same_rendering(tmp_path: Path) -> None:
    """A dataset without a known rendering, such as an import, can be joined with any other."""
    one, two = (noise(tmp_path / name, "procgen:miner", [30, 30]) for name in ("one", "two"))
    set_rendering(two, "fast")
    assert read_manifest(join_datasets([one, two], 0.1, 0, QUIET)).rendering == "fast"
    set_rendering(one, "stock")
    with pytest.raises(UserError, match="expected all to be drawn alike"):
        join_datasets([one, two], 0.1, 0, QUIET)


def test_fewer_frames_are_taken_from_each_joined_dataset(tmp_path: Path) -> None:
    folders = [noise(tmp_path / str(i), f"procgen:{g}", [20, 30, 10]) for i, g in enumerate(("miner", "maze"))]
    wanted = Config(env=("procgen:miner", "procgen:maze"), held_out=0.2, video_frames=40)
    joined = join_datasets(folders, wanted.held_out, wanted.video_frames, QUIET)
    videos = open_run_videos(wanted, joined)
    assert [*videos.train.lengths, *videos.held_out.lengths] == [20, 20, 20, 20]


@pytest.mark.parametrize("damage", ["environment", "rendering", "count", "inside"])
def test_labels_must_match_the_run(dataset: Path, damage: str) -> None:
    labels = evaluation_labels.load_labels(dataset)
    assert labels is not None
    settings = Config(env=("procgen:bossfight",), labels=dataset, labelled_frames=100)
    messages = {
        "environment": "were recorded in",
        "rendering": "were drawn with rendering fast",
        "count": "expected labels of",
        "inside": "within episodes actions: expected 0..14, got 0..255",
    }
    if damage == "environment":
        settings = dataclasses.replace(settings, env=("procgen:maze",))
    elif damage == "rendering":
        set_rendering(dataset, "fast")
    elif damage == "count":
        dataclasses.replace(labels, action=labels.action[:-1]).save(dataset)
    else:
        labels.action[3] = 255
        labels.save(dataset)
    with pytest.raises(UserError, match=messages[damage]):
        labeled_replay(settings, Screen(quiet=True))


def test_labels_of_another_number_of_frames_are_refused(dataset: Path, tmp_path: Path) -> None:
    other = noise(tmp_path / "other", "procgen:bossfight", [60, 60])
    (other / "evaluation_only.npz").write_bytes((dataset / "evaluation_only.npz").read_bytes())
    with pytest.raises(UserError, match="expected labels of"):
        open_matching(Config(), other)


def test_metrics_skip_labels_of_another_kind(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = evaluation_labels.load_labels(dataset)
    assert labels is not None
    action = np.zeros((len(labels.action), 7), np.float32)
    dataclasses.replace(labels, action=action).save(dataset)
    settings = preset("procgen:bossfight", "quick")
    videos = open_run_videos(settings, dataset)
    held_out = videos.held_out_windows(settings.first_env, settings.window, FP32, 0.0, Screen())
    assert held_out is not None
    assert held_out.true_actions() is None
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "labels are not actions of procgen:bossfight: actions: expected integers" in shown
