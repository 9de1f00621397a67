"""Joins several datasets into one, which keeps held-out episodes of each."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos.dataset import MANIFEST, DatasetWriter, Manifest, open_videos

_ROWS_PER_COPY = 4096


def join_datasets(folders: list[Path], held_out: float, video_frames: int, screen: Screen) -> Path:
    """Writes one dataset of several into the cache, once, and returns its folder.

    It has the training episodes of each dataset, then the episodes that `held_out` keeps from training, and no labels.
    `video_frames` > 0 uses only the first so many frames of each. Raises UserError for frames of different sizes, or
    drawn differently.
    """
    datasets = [open_videos(folder) for folder in folders]
    shapes = {tuple(videos.manifest.frame_shape) for videos in datasets}
    if len(shapes) > 1:
        raise UserError(f"videos: expected frames of one size, got {sorted(shapes)}")
    renderings = {videos.manifest.rendering for videos in datasets} - {""}
    if len(renderings) > 1:
        raise UserError("videos: expected all to be drawn alike, got stock and fast rendering")
    stamps = [(str(folder.resolve()), (folder / MANIFEST).stat().st_mtime_ns) for folder in folders]
    digest = hashlib.sha256(repr((stamps, held_out, video_frames)).encode()).hexdigest()[:12]
    target = cache_folder() / "videos" / f"joined-{digest}"
    if (target / MANIFEST).exists():
        return target
    halves = [(videos.first(video_frames) if video_frames else videos).split(held_out) for videos in datasets]
    parts = [train for train, _ in halves] + [rest for _, rest in halves]
    envs = {videos.manifest.env for videos in datasets}
    channels, height, width = shapes.pop()
    manifest = Manifest(
        envs.pop() if len(envs) == 1 else "",
        ",".join(str(folder) for folder in folders),
        [int(length) for part in parts for length in part.lengths],
        [channels, height, width],
        training_episodes=sum(len(train.lengths) for train, _ in halves),
        rendering="".join(renderings),
    )
    with DatasetWriter(target, (channels, height, width)) as writer:
        with screen.bar("joining videos", total=sum(manifest.lengths), unit="frames") as bar:
            for part in parts:
                for start in range(0, len(part.frames), _ROWS_PER_COPY):
                    rows = part.frames[start : start + _ROWS_PER_COPY]
                    writer.append(rows)
                    bar.advance(len(rows))
        writer.commit(manifest)
    return target
