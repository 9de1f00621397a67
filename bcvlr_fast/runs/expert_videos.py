"""The expert videos of a run: found, recorded or imported on first use, joined, and checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bcvlr_fast import config
from bcvlr_fast.config import Config
from bcvlr_fast.envs import chosen_rendering, parse_name, spec
from bcvlr_fast.experts import behaviors as behaviours
from bcvlr_fast.experts import recorder, replays
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import MANIFEST, DatasetWriter, ExpertVideos, Manifest, importing, open_videos, read_manifest
from bcvlr_fast.videos import labels as evaluation_labels

_JOINED_ROWS = 4096


def find(settings: Config, screen: Screen, dry_run: bool = False) -> Path:
    """The dataset to learn from: the videos asked for, imported on first use where they are none yet, or replays,
    bundled or a file of one's own, recorded on first use; several are joined. Raises UserError where there are none."""
    paths = config.video_paths(settings)
    if len(paths) > 1:
        found = [_find(settings, path, screen, dry_run) for path in paths]
        return found[0] if dry_run else join(found, settings, screen)
    return _find(settings, paths[0] if paths else None, screen, dry_run)


def _find(settings: Config, path: Path | None, screen: Screen, dry_run: bool) -> Path:
    suite, task = parse_name(settings.env)
    if suite == "procgen" and (path is None or replays.is_replays(path)):
        source = replays.load(task) if path is None else replays.load_file(path, task)
        folder = recorder.default_folder(settings.env, source)
        if not dry_run:
            recorder.record(settings.env, source, folder, screen)
        return folder
    if path is None or path.suffix == behaviours.SUFFIX:
        expert = behaviours.load_file(path, settings.env) if path else behaviours.load(settings.env)
        frames, steps = settings.expert_frames, settings.expert_steps
        return recorder.record_expert(expert, frames, steps, settings.rendering, screen, dry_run=dry_run)
    if (path / MANIFEST).exists():
        if dry_run:  # a real run opens them next, before it writes anything
            use(settings, path)
        return path
    options = importing.Options.for_env(settings.env)
    try:
        importing.find_parts(path, options)
        folder = importing.default_folder(path, options)
        if not dry_run and not folder.exists():
            screen.say(importing.import_videos(path, folder, options, screen).describe())
    except UserError as error:
        raise UserError(f"{error}; options are those of: python -m bcvlr_fast.videos import {path}") from None
    return folder


def use(settings: Config, path: Path) -> ExpertVideos:
    """The frames of dataset `path` that a run may use.

    Raises UserError for videos of another environment, without an episode long enough for one window, or with labels
    that are damaged or another video's.
    """
    videos = open_of(settings, path)
    used = _first(videos, settings) if videos.training_episodes is None else videos
    needed = settings.latent_actions.window_frames
    if used.split(settings.held_out)[0].lengths.max() < needed:
        raise UserError(f"videos: {path}: expected an episode of at least {needed} frames, found none")
    return used


def open_of(settings: Config, path: Path) -> ExpertVideos:
    """Dataset `path`. Raises UserError where it is of another environment than the run, drawn otherwise, or its labels
    are of other videos."""
    names = settings.env.split(",")
    videos = open_videos(path, spec(names[0]).frame_shape)
    manifest = videos.manifest
    if manifest.env not in ("", *names):
        raise UserError(f"videos: {path} were recorded in {manifest.env}, not in {settings.env}")
    drawn, own = manifest.rendering, chosen_rendering(names[0], settings.rendering)
    if drawn not in ("", own):
        raise UserError(f"videos: {path} were drawn with rendering {drawn}, own frames are with {own} (--rendering)")
    labels = evaluation_labels.load_labels(path)
    if labels and (len(labels.action), len(labels.level)) != (len(videos.frames), len(videos.lengths)):
        raise UserError(f"videos: {path / evaluation_labels.FILE}: is not of these videos")
    return videos


def _first(videos: ExpertVideos, settings: Config) -> ExpertVideos:
    return videos.first(settings.video_frames) if settings.video_frames else videos


def join(folders: list[Path], settings: Config, screen: Screen) -> Path:
    """One dataset of several: first the episodes of each to train on, then those that are held out; no labels.

    `settings.video_frames` is of each of them.
    """
    datasets = [(folder, read_manifest(folder)) for folder in folders]
    shapes = {tuple(manifest.frame_shape) for _, manifest in datasets}
    if len(shapes) > 1:
        raise UserError(f"videos: expected frames of one size, found {sorted(shapes)}")
    renderings = {manifest.rendering for _, manifest in datasets} - {""}
    if len(renderings) > 1:
        raise UserError("videos: expected all to be drawn alike, found stock and fast rendering")
    channels, height, width = shapes.pop()
    stamps = [(str(folder.resolve()), (folder / MANIFEST).stat().st_mtime_ns) for folder in folders]
    wanted = (stamps, settings.held_out, settings.video_frames)
    digest = hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]
    target = cache_folder() / "videos" / f"joined-{digest}"
    if (target / MANIFEST).exists():
        return target
    used = [_first(open_videos(folder, (channels, height, width)), settings) for folder, _ in datasets]
    halves = [videos.split(settings.held_out) for videos in used]
    parts = [train for train, _ in halves] + [held for _, held in halves]
    writer = DatasetWriter(target, (channels, height, width))
    try:
        with screen.bar("joining videos", total=sum(len(part.frames) for part in parts), unit="frames") as bar:
            for part in parts:
                for start in range(0, len(part.frames), _JOINED_ROWS):
                    rows = part.frames[start : start + _JOINED_ROWS]
                    writer.append(rows)
                    bar.advance(len(rows))
        lengths = [int(n) for part in parts for n in part.lengths]
        envs = {manifest.env for _, manifest in datasets}
        source = ",".join(str(folder) for folder in folders)
        env = envs.pop() if len(envs) == 1 else ""
        training = sum(len(train.lengths) for train, _ in halves)
        rendering = "".join(renderings)
        shape = [channels, height, width]
        writer.commit(Manifest(env, source, lengths, shape, training_episodes=training, rendering=rendering))
    except BaseException:
        writer.abort()
        raise
    return target
