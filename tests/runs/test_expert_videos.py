"""The expert videos of a run: what is refused, and what only warns."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.runs.expert_videos import open_run_videos
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.videos import labels as evaluation_labels

FP32 = Compute(torch.device("cpu"), torch.float32)


def test_metrics_skip_labels_of_another_kind(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = evaluation_labels.load_labels(dataset)
    assert labels is not None
    action = np.zeros((len(labels.action), 7), np.float32)
    dataclasses.replace(labels, action=action).save(dataset)
    settings = preset("procgen:bossfight", "quick")
    videos = open_run_videos(settings, dataset, settings.window.observations)
    held_out = videos.held_out_windows(settings.first_env, settings.window, FP32, 0.0, Screen())
    assert held_out is not None
    assert held_out.true_actions() is None
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "labels are not procgen:bossfight's actions: expected integers" in shown
