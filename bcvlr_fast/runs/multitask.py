"""Several tasks from one pretraining (Table 3 of the paper)."""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from pathlib import Path

from bcvlr_fast.config.files import to_json
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.registry import method_type
from bcvlr_fast.runs.expert_videos import open_run_videos
from bcvlr_fast.runs.planning import Plan
from bcvlr_fast.runs.run import CHECKPOINTS, CONFIG, Run
from bcvlr_fast.runs.training import STATUS, learn, train, training_actions
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training import checkpoint
from bcvlr_fast.videos.joining import join_datasets


def split_tasks(settings: RunConfig) -> list[RunConfig]:
    """One configuration per environment in `env`, each with the corresponding entry of `videos`.

    Raises UserError if the numbers of entries differ, if several environments have labels, or if the environments
    cannot share an agent.
    """
    names, paths = settings.env, settings.videos
    if len(names) > 1 and not method_type(settings.method).task_phase:
        raise UserError(f"env: method {settings.method} learns one task, got {len(names)}")
    if len(names) > 1 and settings.labels:
        raise UserError(f"labels: expected one environment, got {len(names)}")
    shapes = [(spec(name).frame_shape, spec(name).actions.continuous, spec(name).actions.size) for name in names]
    for name, shape in zip(names, shapes, strict=True):
        if shape != shapes[0]:
            raise UserError(f"env: {name} has other frames or actions than {names[0]}: they cannot share a pretraining")
    if len(names) == 1 or not paths:
        return [dataclasses.replace(settings, env=(name,)) for name in names]
    if len(names) != len(paths):
        raise UserError(f"videos: expected {len(names)} paths, one for each environment, got {len(paths)}")
    return [dataclasses.replace(settings, env=(n,), videos=(p,)) for n, p in zip(names, paths, strict=True)]


def train_tasks(
    settings: RunConfig,
    tasks: list[RunConfig],
    videos: list[Path],
    folder: Path,
    screen: Screen,
    plan: Plan | None,
    track: str,
    start: float,
) -> None:
    """Pretrains once on the videos of all tasks, then learns each task in its own environment.

    The run of each task starts from a copy of the pretraining checkpoint; finished tasks are skipped on resume.
    """
    joined = join_datasets(videos, settings.held_out, settings.video_frames, screen)
    _pretrain(settings, joined, folder, screen, track, start)
    if plan is not None:
        plan.save(folder)
    for task, path in zip(tasks, videos, strict=True):
        gc.collect()  # a finished run holds gigabytes of frames in reference cycles
        own = folder / task.first_env.replace(":", "-")
        if (own / STATUS).exists():
            continue
        _begin_as(own, folder / "pretraining")
        screen.say(f"\n{task.first_env}, run folder {own}")
        train(task, own, path, screen, track=track, resume_folder=folder)
    (folder / STATUS).write_text(json.dumps({"minutes": round((time.monotonic() - start) / 60, 2)}))


def _pretrain(settings: RunConfig, videos: Path, folder: Path, screen: Screen, track: str, start: float) -> None:
    run = Run(folder / "pretraining", settings, screen, track=track, start=start, resume_folder=folder)
    (folder / CONFIG).write_text(to_json(settings))
    try:
        with run.stopping.signals():
            opened = open_run_videos(settings, videos)
            learn(run, opened, training_actions(settings, opened), until=run.method.task_phase)
            run.stopping.check()
    finally:
        run.close()


def _begin_as(own: Path, pretraining: Path) -> None:
    """Copies the newest pretraining checkpoint into a task folder that has no checkpoints yet."""
    if (own / CHECKPOINTS).exists():
        return
    newest = max((pretraining / CHECKPOINTS).glob("step-*"))
    state = checkpoint.load_checkpoint(newest)
    state["log"] = {"bytes": 0}  # the task has a log of its own
    checkpoint.save(own / CHECKPOINTS, int(newest.name.removeprefix("step-")), state)
