"""Runs that are opened again: their policy, and the scores of their expert."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bcvlr_fast.methods.policy import CARD
from bcvlr_fast.runs.results import expert_scores, load_method, load_policy
from bcvlr_fast.runs.training import VIDEOS
from bcvlr_fast.system.errors import UserError


def test_expert_scores_are_those_of_the_labels(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / VIDEOS).write_text(json.dumps({"path": str(dataset)}))
    np.testing.assert_array_equal(expert_scores(tmp_path), np.arange(4))


def test_a_run_whose_videos_are_gone_has_no_expert_scores(tmp_path: Path) -> None:
    (tmp_path / VIDEOS).write_text(json.dumps({"path": str(tmp_path / "gone")}))
    assert expert_scores(tmp_path) is None
    assert expert_scores(tmp_path / "no run") is None


def test_a_finished_run_and_its_checkpoint_hold_the_same_policy(
    finished: tuple[Path, Path, str], tmp_path: Path
) -> None:
    folder = finished[0]
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 64, 64), dtype=np.uint8)
    saved, method = load_policy(folder, "cpu"), load_method(folder, "cpu")[0]
    assert saved.compute.dtype == method.policy.compute.dtype
    np.testing.assert_array_equal(saved.act(frames), method.policy.act(frames))
    unfinished = shutil.copytree(folder, tmp_path / "run")
    (unfinished / CARD).unlink()
    np.testing.assert_array_equal(load_policy(unfinished, "cpu").act(frames), saved.act(frames))


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a run folder with config\.json, or one with policy\.json"):
        load_policy(tmp_path)
