"""Starts or resumes a run of one or several tasks, after checking its requirements."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcvlr_fast.config.overlay import dotted
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.envs import make, spec
from bcvlr_fast.methods.registry import method_type
from bcvlr_fast.runs.arguments import TimeLimit, folder_for, settings_for, time_limit
from bcvlr_fast.runs.expert_videos import find_videos, open_run_videos
from bcvlr_fast.runs.multitask import split_tasks, train_tasks
from bcvlr_fast.runs.planning import planned, with_frames
from bcvlr_fast.runs.run import CHECKPOINTS
from bcvlr_fast.runs.training import train
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.metrics_log import check_tracker


def start_run(
    settings: RunConfig,
    folder: Path,
    screen: Screen,
    *,
    limit: TimeLimit | None = None,
    track: str = "none",
    start: float | None = None,
    profiled: tuple[int, int] | None = None,
    dry_run: bool = False,
) -> None:
    """Trains in `folder` according to `settings`, or resumes the run in it. A `limit` determines numbers of updates.

    Raises UserError for a missing package, environment, encoder or video, before anything is written. A dry run stops
    at that point. The other arguments are those of `Run`.
    """
    start = time.monotonic() if start is None else start
    method = method_type(settings.method)
    if settings.labels and not method.takes_transitions:
        raise UserError(f"labels: method {settings.method} has no use for labeled transitions")
    if limit is not None:
        settings = with_frames(settings, limit)
    tasks = split_tasks(settings)
    for task in tasks:
        make(task.first_env, 1, 0, rendering=task.rendering).close()
    restored = (folder / CHECKPOINTS).exists()
    method.check(settings, spec(settings.first_env), restored)
    check_tracker(track)
    videos = [find_videos(task, screen, dry_run) for task in tasks]
    plan = None
    if limit is not None:
        frames = settings.expert_frames * len(tasks)
        if not dry_run:  # what videos lack is said before anything is measured
            frames = sum(len(open_run_videos(*each).train.frames) for each in zip(tasks, videos, strict=True))
        settings, plan = planned(settings, frames, limit, start, screen)
        tasks = split_tasks(settings)
    if dry_run:
        screen.say("dry run: nothing was written")
    elif len(tasks) == 1:
        train(settings, folder, videos[0], screen, plan=plan, track=track, start=start, profiled=profiled)
    else:
        train_tasks(settings, tasks, videos, folder, screen, plan, track, start)


def train_from_settings(
    env: str | Sequence[str],
    videos: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    minutes: float | None = None,
    **settings: Any,
) -> Path:
    """Trains with settings given from Python, as `bcvlr_fast.train` describes; returns the run folder."""
    chosen = settings_for(env, videos, **settings)
    folder = folder_for(chosen, None if out is None else Path(out))
    limit = time_limit(minutes, chosen, settings.get("preset", "auto"), dotted(settings))
    start_run(chosen, folder, Screen(quiet), limit=limit)
    return folder
