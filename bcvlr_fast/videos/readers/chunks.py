"""What every reader of a source gives: chunks of frames, with where episodes begin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

CHUNK_FRAMES = 256
CHUNK_BYTES = 2**26
_PICTURE = (1, 3, 4)
_MOST_STACKED = 30


class Chunk(NamedTuple):
    """Successive frames of a source."""

    frames: np.ndarray
    """[n, h, w, 3] uint8."""
    starts: np.ndarray | None = None
    """[n] bool, True on the first frame of an episode; None where the source has no marks."""
    time_s: np.ndarray | None = None
    """[n] float64 presentation times; None where the source keeps none."""
    labels: dict[str, np.ndarray] = {}  # noqa: RUF012  (a NamedTuple's default, never written)
    """[n, ...] what the source says of what was done on each frame, by name: `action`, and what it brought."""


@dataclass(frozen=True)
class Limits:
    """What is refused before memory is taken for it."""

    file_gib: float = 4.0
    side_px: int = 4096
    frames: int = 10_000_000
    ratio: float = 200.0
    """Unpacked bytes of an archive's member for each packed one."""


@dataclass(frozen=True)
class Part:
    """A file, or a folder of images, that one worker reads."""

    path: Path
    reader: str
    """Module of this package that reads it."""
    key: str | None = None
    """Which array or camera, where there are several."""
    wants_labels: bool = False
    limits: Limits = field(default_factory=Limits)


Reader = Iterator[Chunk]


class Unreadable(Exception):
    """A source that cannot be read: what was expected, what was found."""


def as_rgb(frames: np.ndarray, name: str, limits: Limits) -> np.ndarray:
    """[n, h, w, 3] uint8 from frames in any of the usual layouts; of stacked frames (3 k channels) the newest three.

    Raises Unreadable.
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
        raise Unreadable(f"{name}: expected RGBA of one alpha, got four changing channels (stacked grey frames?)")
    return frames[..., :3] if channels == 4 else frames[..., -3:]


def check_side(height: int, width: int, name: str, limits: Limits) -> None:
    """Raises Unreadable for frames too large or too small."""
    if not 1 <= min(height, width) <= max(height, width) <= limits.side_px:
        raise Unreadable(f"{name}: expected sides of 1 to {limits.side_px} pixels, got {height} x {width}")


def _channels(count: int) -> bool:
    return count in _PICTURE or (count % 3 == 0 and count <= _MOST_STACKED)
