"""What readers take and yield: parts of a source, and chunks of frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

CHUNK_FRAMES = 256
CHUNK_BYTES = 2**26
_PICTURE = (1, 3, 4)
_MAX_STACKED_CHANNELS = 30


class Chunk(NamedTuple):
    """Consecutive frames of a source."""

    frames: np.ndarray
    """[n, h, w, 3] uint8."""
    starts: np.ndarray | None = None
    """[n] bool, True on the first frame of an episode; None if the source does not mark them."""
    time_s: np.ndarray | None = None
    """[n] float64 presentation times; None if the source has none."""
    labels: dict[str, np.ndarray] = {}  # noqa: RUF012  (a NamedTuple's default, never written)
    """`action` and `reward` [n, ...] of each frame, where the source has them."""


@dataclass(frozen=True)
class Limits:
    """Sizes above which a source is refused before memory is allocated for it."""

    file_gib: float = 4.0
    """Maximum size of a file in GiB."""
    side_px: int = 4096
    """Maximum height and width of a frame in pixels."""
    frames: int = 10_000_000
    """Maximum number of frames."""
    ratio: float = 200.0
    """Maximum compression ratio of an archive member."""


@dataclass(frozen=True)
class Part:
    """A file or folder that one worker reads."""

    path: Path
    reader: str
    """Name of the module of `videos.readers` that reads it."""
    key: str | None = None
    """Array or camera to read, if there are several."""
    wants_labels: bool = False
    """Whether to read actions and rewards."""
    limits: Limits = field(default_factory=Limits)


Reader = Iterator[Chunk]


class Unreadable(Exception):
    """A source that cannot be read; the message says what was expected and what was found."""


def as_rgb(frames: np.ndarray, name: str, limits: Limits) -> np.ndarray:
    """Converts frames in any usual layout to [n, h, w, 3] uint8; of stacked frames (3 k channels), keeps the newest.

    Raises Unreadable for any other layout.
    """
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4):
        raise Unreadable(f"{name}: expected uint8 frames, got {frames.dtype} {list(frames.shape)}")
    if frames.ndim == 3 and frames.shape[2] in (3, 4):
        raise Unreadable(f"{name}: expected [frames, height, width, channels], got one picture {list(frames.shape)}")
    if frames.ndim == 3:
        frames = frames[..., None]
    last, first = frames.shape[3], frames.shape[1]
    if (first in _PICTURE and last not in _PICTURE) or (_channels(first) and not _channels(last)):
        frames = frames.transpose(0, 2, 3, 1)
    elif not _channels(last):
        raise Unreadable(f"{name}: expected 1, 3, 4 or 3 k channels first or last, got {list(frames.shape)}")
    check_side(frames.shape[1], frames.shape[2], name, limits)
    channels = frames.shape[3]
    if channels == 1:
        return np.broadcast_to(frames, (*frames.shape[:3], 3))
    if channels == 4 and frames[..., 3].min() != frames[..., 3].max():
        raise Unreadable(f"{name}: expected RGBA of one alpha, got four changing channels (stacked gray frames?)")
    return frames[..., :3] if channels == 4 else frames[..., -3:]


def check_side(height: int, width: int, name: str, limits: Limits) -> None:
    """Raises Unreadable if the frames are too large or empty."""
    if not 1 <= min(height, width) <= max(height, width) <= limits.side_px:
        raise Unreadable(f"{name}: expected sides of 1 to {limits.side_px} pixels, got {height} x {width}")


def _channels(count: int) -> bool:
    return count in _PICTURE or (count % 3 == 0 and count <= _MAX_STACKED_CHANNELS)
