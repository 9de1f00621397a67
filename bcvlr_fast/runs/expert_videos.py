"""The expert videos of a run: recorded or imported on first use, joined, verified, and opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.config.window import Window
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.sampling import WindowSampler, window_centers, without_excess_still
from bcvlr_fast.envs import chosen_rendering, spec
from bcvlr_fast.evaluation.health import HeldOut
from bcvlr_fast.experts import find_expert, is_expert_file
from bcvlr_fast.experts.recorder import record
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.videos import (
    MANIFEST,
    ExpertVideos,
    importing,
    open_videos,
)
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos.joining import join_datasets
from bcvlr_fast.videos.labels import EvaluationLabels, as_actions


@dataclass(frozen=True)
class RunVideos:
    """A dataset opened for a run: its training and held-out episodes, and labels that only evaluation may see."""

    path: Path
    train: ExpertVideos
    held_out: ExpertVideos
    labels: EvaluationLabels | None

    @property
    def first_held_out_frame(self) -> int:
        """The row of the first held-out frame in the dataset."""
        return len(self.train.frames)

    @property
    def expert(self) -> ExpertVideos:
        """The episodes to show beside the agent: the held-out ones, or all where none are held out."""
        return self.held_out if len(self.held_out.lengths) else self.train

    @property
    def expert_levels(self) -> np.ndarray | None:
        """[E] levels of `expert`; None without labels."""
        if self.labels is None:
            return None
        first = len(self.train.lengths) if len(self.held_out.lengths) else 0
        return self.labels.level[first : first + len(self.expert.lengths)]

    def store(self, compute: Compute, frames_gb: float) -> FrameStore:
        """The training frames in memory."""
        return FrameStore.from_episodes(self.train.frames, self.train.lengths, compute.device, frames_gb)

    def sampler(self, store: FrameStore, settings: RunConfig, generator: torch.Generator) -> WindowSampler:
        """Windows of the training frames; near-static windows beyond `still_share` are dropped."""
        centers = window_centers(store.position, settings.window.future)
        if settings.still_share < 1:
            rng = np.random.default_rng(settings.seed)
            centers = without_excess_still(self.train.frames, centers, settings.still_share, rng)
        return WindowSampler(store, settings.window, generator, torch.from_numpy(centers).to(store.device))

    def actions(self, env: str, videos: ExpertVideos, first: int) -> np.ndarray | None:
        """The expert's actions [N, ...] of `videos`, which begin at frame `first` of the dataset; None without labels.

        Raises UserError where the labels are not the environment's actions.
        """
        if self.labels is None:
            return None
        own = self.labels.action[first : first + len(videos.frames)]
        try:
            return as_actions(own, videos.lengths.cumsum() - 1, spec(env).actions)
        except ValueError as error:
            raise UserError(f"videos: {self.path}: its labels are not actions of {env}: {error}") from None

    def held_out_windows(
        self, env: str, window: Window, compute: Compute, frames_gb: float, screen: Screen
    ) -> HeldOut | None:
        """Windows of the held-out episodes, with true actions if the labels have them; None if no episode is long
        enough."""
        store = FrameStore.from_episodes(self.held_out.frames, self.held_out.lengths, compute.device, frames_gb)
        sampler = WindowSampler(store, window, torch.Generator(compute.device))
        if len(sampler.centers) == 0:
            return None
        try:
            return HeldOut(sampler, self.actions(env, self.held_out, self.first_held_out_frame))
        except UserError as error:
            screen.warn(f"{error}: metrics that compare with true actions are skipped")
            return HeldOut(sampler, None)


def find_videos(settings: RunConfig, screen: Screen, dry_run: bool = False) -> Path:
    """The folder of the dataset to learn from, recorded, imported or joined on first use.

    `videos` names a dataset, videos in any format, or a file of an expert; the default is the bundled expert. Raises
    UserError if there is none.
    """
    paths = settings.videos
    if len(paths) > 1:
        found = [_find(settings, path, screen, dry_run) for path in paths]
        return found[0] if dry_run else join_datasets(found, settings.held_out, settings.video_frames, screen)
    return _find(settings, paths[0] if paths else None, screen, dry_run)


def record_expert(settings: RunConfig, file: Path | None, screen: Screen, dry_run: bool = False) -> Path:
    """The recording, on first use, of the bundled expert or that of a `file` of replays or weights."""
    return record(
        find_expert(settings.first_env, file),
        frames=settings.expert_frames,
        steps=settings.expert_steps,
        rendering=settings.rendering,
        screen=screen,
        dry_run=dry_run,
    )


def _find(settings: RunConfig, path: Path | None, screen: Screen, dry_run: bool) -> Path:
    if path is None or is_expert_file(path):
        return record_expert(settings, path, screen, dry_run)
    if (path / MANIFEST).exists():
        if dry_run:  # a real run opens them next, before it writes anything
            open_run_videos(settings, path)
        return path
    task_spec = spec(settings.first_env)
    options = importing.Options(task_spec.frame_shape, task_spec.steps_per_s, env=settings.first_env)
    try:
        importing.find_parts(path, options)
        folder = importing.default_folder(path, options)
        if not dry_run and not folder.exists():
            screen.say(importing.import_videos(path, folder, options, screen).describe())
    except UserError as error:
        raise UserError(f"{error}; for more options use: python -m bcvlr_fast.videos import {path}") from None
    return folder


def open_run_videos(settings: RunConfig, path: Path) -> RunVideos:
    """Opens dataset `path` for a run.

    Raises UserError for videos of another environment, drawn otherwise, without an episode that is long enough for the
    method, or with labels that are damaged or another video's.
    """
    videos, labels = open_matching(settings, path)
    if videos.training_episodes is None and all(is_expert_file(each) for each in settings.videos):
        videos = videos.first_episodes(settings.expert_frames)  # another run may have recorded more
    if videos.training_episodes is None and settings.video_frames:
        videos = videos.first(settings.video_frames)
    train, held_out = videos.split(settings.held_out)
    needed = settings.window.future + 1
    if train.lengths.max() < needed:
        raise UserError(f"videos: {path}: expected an episode of at least {needed} frames, got none")
    return RunVideos(path, train, held_out, labels)


def open_matching(settings: RunConfig, path: Path) -> tuple[ExpertVideos, EvaluationLabels | None]:
    """The complete dataset `path` and its labels.

    Raises UserError if its environment or rendering differ from those of the run, or if its labels belong to other
    videos.
    """
    names = settings.env
    videos = open_videos(path, spec(names[0]).frame_shape)
    manifest = videos.manifest
    if manifest.env not in ("", *names):
        raise UserError(f"videos: {path} were recorded in {manifest.env}, not in {settings.task_name}")
    drawn, own = manifest.rendering, chosen_rendering(names[0], settings.rendering)
    if drawn not in ("", own):
        raise UserError(f"videos: {path} were drawn with rendering {drawn}, this run draws with {own} (--rendering)")
    labels = evaluation_labels.load_labels(path)
    if labels and (len(labels.action), len(labels.level)) != (len(videos.frames), len(videos.lengths)):
        expected, got = f"{len(videos.frames):,} frames", f"{len(labels.action):,}"
        raise UserError(f"videos: {path / evaluation_labels.FILE}: expected labels of {expected}, got {got}")
    return videos, labels
