"""Writes the episodes of a dataset as video files."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from bcvlr_fast.envs import spec
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import check_writable, write_whole
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos.dataset import open_videos
from bcvlr_fast.videos.mp4 import FRAMES_PER_S, write_mp4


def export_videos(
    dataset: Path,
    folder: Path,
    screen: Screen,
    *,
    episodes: int | None = None,
    fps: float | None = None,
    lossless: bool = False,
) -> None:
    """Writes the first `episodes` episodes of a dataset to `folder`, one file each; None writes all of them.

    `fps` defaults to the dataset's rate, else to the steps per second of its environment. `lossless` writes .mkv files
    of the original size in place of enlarged .mp4 files. Raises UserError if an argument is out of range, or the folder
    cannot be written.
    """
    videos = open_videos(dataset)
    manifest = videos.manifest
    check_writable(folder, "out")
    fps = fps or manifest.fps or (spec(manifest.env).steps_per_s if manifest.env else FRAMES_PER_S)
    if not 0.01 <= fps <= 1000:
        raise UserError(f"fps: expected 0.01 .. 1000, got {fps:g}")
    count = len(videos.lengths) if episodes is None else episodes
    if not 1 <= count <= len(videos.lengths):
        raise UserError(f"episodes: expected 1 .. {len(videos.lengths)}, got {count}")
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "mkv" if lossless else "mp4"
    with screen.bar("exporting", total=count, unit="episodes") as bar:
        for episode in range(count):
            frames = np.asarray(videos.part(episode, episode + 1).frames).transpose(0, 2, 3, 1)
            write = functools.partial(write_mp4, frames=frames, frames_per_s=fps, lossless=lossless)
            try:
                write_whole(folder / f"episode-{episode:05d}.{suffix}", write)
            except OSError as error:
                raise UserError(f"out: {folder}: {error.strerror or error}") from None
            bar.advance()
    screen.say(f"films: {folder}")
