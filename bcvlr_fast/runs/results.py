"""Opens finished and unfinished runs for evaluation, reports and acting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.envs import spec
from bcvlr_fast.evaluation.report import write_report
from bcvlr_fast.methods.method import Method
from bcvlr_fast.methods.policy import CARD, Policy
from bcvlr_fast.methods.registry import method_type, read_config
from bcvlr_fast.runs.expert_videos import RunVideos, open_run_videos
from bcvlr_fast.runs.run import CHECKPOINTS, CONFIG
from bcvlr_fast.runs.training import VIDEOS, subject_of
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training.compute import choose_compute, choose_device
from bcvlr_fast.videos.labels import load_labels


def load_policy(path: Path, device: str = "auto") -> Policy:
    """The policy in a run folder, or in a folder that `Policy.save` wrote.

    For an unfinished run, it is the policy of the newest checkpoint. Raises UserError if there is none.
    """
    if (path / CARD).is_file():
        return Policy.load(path, device)
    return load_method(path, device)[0].policy


def load_method(folder: Path, device: str = "auto") -> tuple[Method, RunConfig]:
    """The method of a run with the weights of its newest checkpoint. Raises UserError where there is none."""
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(f"run: {folder}: expected a run folder with {CONFIG}, or one with {CARD}")
    settings = read_config(file, RunConfig)
    saved, damaged = checkpoint.load_newest(folder / CHECKPOINTS)
    if damaged or saved is None:
        raise UserError(f"run: {folder}: {damaged[0] if damaged else 'no checkpoint yet'}")
    compute = choose_compute(choose_device(device), settings.precision)
    make_method = method_type(settings.method)
    method: Method = make_method(settings, spec(settings.first_env), compute, restored=True)
    method.agent.load_state_dict(saved["agent"])
    return method, settings


def videos_of(folder: Path, settings: RunConfig) -> RunVideos:
    """The videos that a run learned from. Raises UserError where it does not say, or they are gone."""
    return open_run_videos(settings, _videos_path(folder))


def expert_scores(folder: Path) -> np.ndarray | None:
    """[E] scores of the expert's episodes in a run's videos; None where they are unknown, or the videos are gone."""
    if not (folder / VIDEOS).is_file():
        return None
    labels = load_labels(_videos_path(folder))
    return None if labels is None else labels.episode_return


def report_again(folder: Path) -> Path:
    """Writes a run's report anew from its newest checkpoint; returns the HTML file."""
    method, settings = load_method(folder)
    videos = videos_of(folder, settings)
    policy, screen = method.policy, Screen()
    env = settings.first_env
    held_out = videos.held_out_windows(env, settings.window, policy.compute, settings.frames_gb, screen)
    write_report(folder, subject_of(settings, method, videos, held_out))
    return folder / "report.html"


def _videos_path(folder: Path) -> Path:
    file = folder / VIDEOS
    try:
        return Path(json.loads(file.read_text())["path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"run: {file}: expected the path of the run's videos ({error})") from None
