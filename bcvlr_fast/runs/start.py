"""Starts or resumes a run, of one task or of several, after checking what it needs."""

from __future__ import annotations

import time
from pathlib import Path

from bcvlr_fast.config import Config
from bcvlr_fast.envs import make, spec
from bcvlr_fast.methods.bcvlr.agent import encoder_arguments
from bcvlr_fast.methods.policy import build_encoder
from bcvlr_fast.runs.expert_videos import find_videos
from bcvlr_fast.runs.multitask import split_tasks, train_tasks
from bcvlr_fast.runs.run import CHECKPOINTS
from bcvlr_fast.runs.training import train
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.metrics_log import check_tracker


def start_run(
    settings: Config,
    folder: Path,
    screen: Screen,
    *,
    track: str = "none",
    start: float | None = None,
    profiled: tuple[int, int] | None = None,
    dry_run: bool = False,
) -> None:
    """Trains as `settings` say, in `folder`, or resumes what is there.

    A missing package, environment, encoder or video raises UserError before anything is written. A dry run stops then.
    The other arguments are those of `Run`.
    """
    start = time.monotonic() if start is None else start
    tasks = split_tasks(settings)
    for task in tasks:
        make(task.env, 1, 0, rendering=task.rendering).close()
    if settings.encoder.pretrained:
        channels, side, _ = spec(tasks[0].env).frame_shape
        load = not (folder / CHECKPOINTS).exists()
        build_encoder(settings.frame_stack * channels, side, encoder_arguments(settings.encoder), load=load)
    check_tracker(track)
    videos = [find_videos(task, screen, dry_run) for task in tasks]
    if dry_run:
        screen.say("dry run: nothing was written")
    elif len(tasks) == 1:
        train(settings, folder, videos[0], screen, track=track, start=start, profiled=profiled)
    else:
        train_tasks(settings, tasks, videos, folder, screen, track, start)
