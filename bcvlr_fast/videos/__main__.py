"""Imports, inspects and exports expert videos.

python -m bcvlr_fast.videos import my_clips/ --env procgen:bossfight --out data
python -m bcvlr_fast.videos inspect data
python -m bcvlr_fast.videos export data --out films
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from bcvlr_fast.envs import spec
from bcvlr_fast.system.command import run_command
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import check_writable, write_whole
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import MANIFEST, open_videos, read_manifest
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos.importing import Labels, Options, Split, default_folder, import_videos
from bcvlr_fast.videos.inspection import inspect
from bcvlr_fast.videos.mp4 import FRAMES_PER_S, write_mp4
from bcvlr_fast.videos.readers.chunks import Limits


@dataclass(frozen=True)
class Import:
    """Turn videos into a dataset: mp4, mkv, webm; folders of images; npy, npz; HDF5 and Minari; LeRobot v3."""

    source: Annotated[Path, tyro.conf.Positional]
    """File or folder."""
    out: Path | None = None
    """Dataset folder; by default under the cache folder."""
    env: str = "procgen:bossfight"
    """The environment that is to be learned: its frame size and its steps a second are what is imported."""
    fps: float | None = None
    """Frames a second to keep of what keeps time, instead of the environment's steps a second; 0 keeps every frame."""
    split: Split = "auto"
    """Episodes: by the source's own marks, else by file (auto); by file; by cuts in the picture."""
    key: str | None = None
    """Which array or camera, where there are several."""
    keep_labels: bool = False
    """Keep actions and rewards that the source holds, in a file that evaluation alone opens."""
    skip_bad: bool = False
    """Leave out files that cannot be read, up to one in twenty."""
    force: bool = False
    """Import again where the dataset exists."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Inspect:
    """Show what is in a dataset: episodes, lengths, still and repeated frames, and a contact sheet."""

    dataset: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    """Contact sheet, a PNG; by default contact_sheet.png in the dataset folder."""


@dataclass(frozen=True)
class Export:
    """Write a dataset's episodes as films."""

    dataset: Annotated[Path, tyro.conf.Positional]
    out: Path
    """Folder, made where it is missing."""
    episodes: int | None = None
    """How many, from the first; all by default."""
    fps: float | None = None
    """Frames a second; by default the dataset's, else the environment's steps."""
    lossless: bool = False
    """Frames at their size, bit for bit (H.264 in RGB, .mkv), instead of enlarged for every player (.mp4)."""


def main(arguments: Import | Inspect | Export) -> None:
    """The command."""
    screen = Screen()
    if isinstance(arguments, Import):
        _import(arguments, screen)
    elif isinstance(arguments, Inspect):
        inspect(arguments.dataset, arguments.out or arguments.dataset / "contact_sheet.png", screen)
    else:
        _export(arguments, screen)


def _import(arguments: Import, screen: Screen) -> None:
    env = spec(arguments.env)
    if arguments.fps is not None and not 0 <= arguments.fps <= 1000:
        raise UserError(f"fps: expected 0 .. 1000, got {arguments.fps:g}")
    fps = env.steps_per_s if arguments.fps is None else arguments.fps or None
    options = Options(
        env.frame_shape,
        fps,
        arguments.split,
        arguments.key,
        arguments.keep_labels,
        arguments.skip_bad,
        arguments.env,
        arguments.limits,
    )
    if not arguments.source.exists():
        raise UserError(f"videos: {arguments.source}: no such file or folder")
    folder = arguments.out or default_folder(arguments.source, options)
    if folder.exists() and not arguments.force:
        raise UserError(f"out: {folder} exists (--force imports it again)")
    if folder.exists() and not (folder / MANIFEST).exists():
        raise UserError(f"out: {folder} exists and is not a dataset")
    manifest = import_videos(arguments.source, folder, options, screen, _keep if arguments.keep_labels else None)
    screen.say(manifest.describe())
    for line in manifest.skipped:
        screen.warn(f"left out: {line}")
    screen.say(f"videos: {folder}")


def _keep(folder: Path, lengths: np.ndarray, labels: Labels) -> None:
    evaluation_labels.from_source(lengths, labels.get("action"), labels.get("reward")).save(folder)


def _export(arguments: Export, screen: Screen) -> None:
    manifest = read_manifest(arguments.dataset)
    channels, height, width = manifest.frame_shape
    videos = open_videos(arguments.dataset, (channels, height, width))
    check_writable(arguments.out, "out")
    fps = arguments.fps or manifest.fps or (spec(manifest.env).steps_per_s if manifest.env else FRAMES_PER_S)
    if not 0.01 <= fps <= 1000:
        raise UserError(f"fps: expected 0.01 .. 1000, got {fps:g}")
    count = len(videos.lengths) if arguments.episodes is None else arguments.episodes
    if not 1 <= count <= len(videos.lengths):
        raise UserError(f"episodes: expected 1 .. {len(videos.lengths)}, got {count}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    suffix = "mkv" if arguments.lossless else "mp4"
    with screen.bar("exporting", total=count, unit="episodes") as bar:
        for episode in range(count):
            frames = np.asarray(videos.part(episode, episode + 1).frames).transpose(0, 2, 3, 1)
            film = functools.partial(write_mp4, frames=frames, frames_per_s=fps, lossless=arguments.lossless)
            try:
                write_whole(arguments.out / f"episode-{episode:05d}.{suffix}", film)
            except OSError as error:
                raise UserError(f"out: {arguments.out}: {error.strerror or error}") from None
            bar.advance()
    screen.say(f"films: {arguments.out}")


if __name__ == "__main__":
    run_command(
        main,
        Annotated[Import, tyro.conf.subcommand("import")]  # type: ignore[arg-type]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Export, tyro.conf.subcommand("export")],
    )
