"""Several tasks from one pretraining (the paper's table 3)."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import time
from pathlib import Path

from bcvlr_fast.config.files import to_json
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.runs import expert_videos as training_videos
from bcvlr_fast.runs.pretrain import pretrain
from bcvlr_fast.runs.run import Run
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen


def split_tasks(settings: Config) -> list[Config]:
    """A configuration for each environment that `env` names, with the videos of the same place in `videos`.

    Raises UserError where their numbers differ, for labels of several, or for environments that no agent can share.
    """
    names, paths = settings.env, settings.videos
    if len(names) > 1 and settings.labels:
        raise UserError("labels: expected one environment, whose actions they are")
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
    settings: Config, tasks: list[Config], videos: list[Path], folder: Path, screen: Screen, track: str, start: float
) -> None:
    """Pretrains once on the videos of all tasks, then learns each in its own environment (the paper's table 3).

    Every task's run begins as a copy of the pretraining's checkpoint; a resumed one leaves out what is done.
    """
    from bcvlr_fast.runs.training import train

    _pretrain(settings, training_videos.join(videos, settings, screen), folder, screen, track, start)
    for task, path in zip(tasks, videos, strict=True):
        gc.collect()  # a run's frames are gigabytes, and it refers to itself
        own = folder / task.first_env.replace(":", "-")
        if (own / "status.json").exists():
            continue
        _begin_as(own, folder / "pretraining")
        screen.say(f"\n{task.first_env}, run folder {own}")
        train(task, own, path, screen, track, resume_folder=folder)
    (folder / "status.json").write_text(json.dumps({"minutes": round((time.monotonic() - start) / 60, 2)}))


def _pretrain(settings: Config, videos: Path, folder: Path, screen: Screen, track: str, start: float) -> None:
    run = Run(folder / "pretraining", settings, screen, track, start, resume_folder=folder)
    (folder / "config.json").write_text(to_json(settings))
    try:
        run.load_videos(training_videos.use(settings, videos))
        with run.signals():
            pretrain(run)
    finally:
        run.close()


def _begin_as(own: Path, pretraining: Path) -> None:
    """Gives a task that has not begun the newest checkpoint of the pretraining."""
    if (own / "ckpt").exists():
        return
    newest = max((pretraining / "ckpt").glob("step-*"))
    work = own / ".ckpt"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(newest, work / newest.name)
    work.rename(own / "ckpt")
