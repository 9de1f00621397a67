"""Statistics and a contact sheet of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from bcvlr_fast.kernels.resize_area import resize_area
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos.dataset import ExpertVideos, open_videos
from bcvlr_fast.videos.marks import jumps

_STILL = 0.25
"""Mean absolute difference of 255 below which a frame counts as equal to the one before it."""
_THUMBNAIL = 8
_LEVELS = 32
_BLOCK = 4096
_SHEET_EPISODES, _SHEET_FRAMES, _GAP = 8, 12, 2


@dataclass(frozen=True)
class FrameStatistics:
    """Fractions of all frames."""

    still: float
    """Frames that hardly differ from the frame before them."""
    repeated: float
    """Frames whose 8 x 8 thumbnail in 32 gray levels also occurs in another episode."""


def inspect_videos(folder: Path, sheet: Path, screen: Screen) -> None:
    """Prints the statistics of a dataset and writes its contact sheet. Raises UserError if it is damaged."""
    videos = open_videos(folder)
    manifest, lengths = videos.manifest, videos.lengths
    channels, height, width = manifest.frame_shape
    statistics = measure(videos)
    table = Table(show_header=False)
    for name, value in (
        ("environment", manifest.env or "unknown"),
        ("source", manifest.source),
        (
            "frames",
            f"{len(videos.frames):,} of {height} x {width} x {channels}, {videos.frames.nbytes / 2**20:,.0f} MiB",
        ),
        ("sizes in the source", ", ".join(f"{h} x {w}" for h, w in manifest.source_sizes) or "unknown"),
        ("frames per second", f"{manifest.fps:g} of {manifest.source_fps:g}" if manifest.source_fps else "unknown"),
        ("episodes", f"{len(lengths):,}"),
        (
            "frames per episode",
            f"{lengths.min():,} / {int(np.median(lengths)):,} / {lengths.max():,} (minimum, median, maximum)",
        ),
        ("still frames", f"{statistics.still:.1%}"),
        ("frames repeated in other episodes", f"{statistics.repeated:.1%}"),
        ("files left out", f"{len(manifest.skipped)}"),
    ):
        table.add_row(name, value)
    screen.table(table)
    write_contact_sheet(videos, sheet)
    screen.say(f"contact sheet: {sheet}")


def measure(videos: ExpertVideos) -> FrameStatistics:
    """Computes the statistics of a dataset in one pass over its frames."""
    still = 0
    owners: dict[bytes, int] = {}
    thumbnails: list[bytes] = []
    repeated: set[bytes] = set()
    episode = np.repeat(np.arange(len(videos.lengths)), videos.lengths)
    before: np.ndarray | None = None
    row = 0
    for block in _blocks(videos.frames):
        still += int((jumps(block, before) < _STILL).sum()) - (before is None)
        before = block[-1]
        for thumbnail in _thumbnails(block):
            owner = int(episode[row])
            if owners.setdefault(thumbnail, owner) != owner:
                repeated.add(thumbnail)
            thumbnails.append(thumbnail)
            row += 1
    return FrameStatistics(still / len(episode), sum(key in repeated for key in thumbnails) / len(episode))


def write_contact_sheet(videos: ExpertVideos, file: Path) -> None:
    """Writes a PNG with one row for each of up to 8 episodes: 12 evenly spaced frames.

    Raises UserError if the file cannot be written.
    """
    from PIL import Image

    count = len(videos.lengths)
    shown = np.unique(np.linspace(0, count - 1, min(_SHEET_EPISODES, count)).round().astype(int))
    height, width = videos.frames.shape[2:]
    sheet = np.full((len(shown) * (height + _GAP), _SHEET_FRAMES * (width + _GAP), 3), 255, np.uint8)
    for i, episode in enumerate(shown):
        frames = videos.part(episode, episode + 1).frames
        for j, row in enumerate(np.linspace(0, len(frames) - 1, _SHEET_FRAMES).round().astype(int)):
            top, left = i * (height + _GAP), j * (width + _GAP)
            sheet[top : top + height, left : left + width] = frames[row][-3:].transpose(1, 2, 0)
    try:
        Image.fromarray(sheet).save(file, format="PNG")
    except OSError as error:
        raise UserError(f"out: {file}: {error.strerror or error}") from None


def _blocks(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Yields frames [n, H, W, C]."""
    for start in range(0, len(frames), _BLOCK):
        yield np.asarray(frames[start : start + _BLOCK]).transpose(0, 2, 3, 1)


def _thumbnails(frames: np.ndarray) -> Iterator[bytes]:
    small = resize_area(frames, _THUMBNAIL, _THUMBNAIL).mean(axis=3)
    for thumbnail in (small * (_LEVELS / 256)).astype(np.uint8):
        yield thumbnail.tobytes()
