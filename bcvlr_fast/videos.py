"""Expert videos: frames and episode lengths, nothing else. Actions and rewards have no place here."""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np

from bcvlr_fast.errors import UserError
from bcvlr_fast.files import check_writable, free_bytes

MANIFEST, FRAMES = "manifest.json", "frames.npy"
NOT_NUMPY = (OSError, ValueError, EOFError, zipfile.BadZipFile)
"""What np.load raises for a file that is missing, empty, cut off, or no array."""
_FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a dataset folder says of itself."""

    env: str
    source: str
    """replays, or the folder that the frames came from."""
    lengths: list[int]
    """Frames of each episode, in the order of the file."""
    frame_shape: list[int]
    seed: int = 0
    format: int = _FORMAT


@dataclass(frozen=True)
class Videos:
    """Episodes of frames, one after another.

    `frames` [N, C, H, W] uint8 may be a memory map; `lengths` [E] int64 sums to N.
    """

    frames: np.ndarray
    lengths: np.ndarray
    path: Path

    def split(self, held_out: float) -> tuple[Videos, Videos]:
        """(training, held-out) episodes: the last ones, as near to that share of the frames as episodes allow.

        At least one episode is held out (unless `held_out` is 0 or there is only one), and one left.
        """
        if held_out == 0 or len(self.lengths) < 2:
            return self, self.part(len(self.lengths), len(self.lengths))
        ends = self.lengths.cumsum()
        first = 1 + int(np.abs(ends[:-1] - (1 - held_out) * ends[-1]).argmin())
        return self.part(0, first), self.part(first, len(self.lengths))

    def part(self, first: int, last: int) -> Videos:
        """Episodes first .. last - 1."""
        starts = np.concatenate([[0], self.lengths.cumsum()])
        return Videos(self.frames[starts[first] : starts[last]], self.lengths[first:last], self.path)


def open_videos(path: Path, frame_shape: tuple[int, int, int]) -> Videos:
    """Videos from a recorded dataset, or from .npy episodes [T, H, W, C] uint8 (one file or a folder of them).

    Episodes of another size are resized by area to `frame_shape` (C, H, W).
    Raises UserError naming the file, what was expected and what was found.
    """
    if not path.exists():
        raise UserError(f"videos: {path}: no such file or folder")
    if path.is_dir() and (path / MANIFEST).exists():
        return _open_dataset(path, frame_shape)
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"videos: {path}: expected {MANIFEST} or .npy episodes, found neither")
    episodes = [_fit(file, _load_episode(file), frame_shape) for file in files]
    return Videos(np.concatenate(episodes), np.array([len(e) for e in episodes]), path)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset. Raises UserError where it is not one."""
    file = folder / MANIFEST
    try:
        manifest = Manifest(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"videos: {file}: not a dataset manifest ({error})") from None
    if manifest.format != _FORMAT:
        raise UserError(f"videos: {file}: format: expected {_FORMAT}, got {manifest.format}")
    lengths = manifest.lengths
    if not isinstance(lengths, list) or not lengths or not all(isinstance(n, int) and n > 0 for n in lengths):
        raise UserError(f"videos: {file}: lengths: expected positive integers")
    return manifest


class DatasetWriter:
    """Writes a dataset into a temporary folder beside `folder`, which appears whole on `commit`.

    Raises UserError where the folder cannot be written or the disk lacks the room.
    """

    def __init__(self, folder: Path, frames: int, frame_shape: tuple[int, ...]) -> None:
        self.folder = folder
        self.work = folder.with_name(f".{folder.name}.{os.getpid()}")
        shape = (frames, *frame_shape)
        check_writable(folder, "videos")
        needed, free = math.prod(shape), free_bytes(folder)
        if needed > free:  # a mapped file on a full disk would end in SIGBUS
            raise UserError(f"videos: {folder}: needs {needed:,} bytes, {free:,} are free")
        self.work.mkdir(parents=True)
        self.frames = np.lib.format.open_memmap(self.work / FRAMES, mode="w+", dtype=np.uint8, shape=shape)

    def commit(self, manifest: Manifest) -> None:
        self.frames.flush()
        (self.work / MANIFEST).write_text(json.dumps(asdict(manifest)))
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.work.rename(self.folder)

    def abort(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)


def _open_dataset(path: Path, frame_shape: tuple[int, int, int]) -> Videos:
    manifest = read_manifest(path)
    try:
        frames = np.load(path / FRAMES, mmap_mode="r", allow_pickle=False)
    except NOT_NUMPY as error:
        raise UserError(f"videos: {path / FRAMES}: {error}") from None
    lengths = np.array(manifest.lengths, np.int64)
    expected = (int(lengths.sum()), *frame_shape)
    if frames.dtype != np.uint8 or frames.shape != expected:
        raise UserError(
            f"videos: {path / FRAMES}: expected uint8 {list(expected)}, got {frames.dtype} {list(frames.shape)}"
        )
    return Videos(frames, lengths, path)


def _load_episode(file: Path) -> np.ndarray:
    try:
        episode = np.load(file, mmap_mode="r", allow_pickle=False)
    except NOT_NUMPY as error:
        raise UserError(f"videos: {file}: expected an .npy array, got {error}") from None
    if not isinstance(episode, np.ndarray) or episode.ndim != 4 or episode.dtype != np.uint8:
        found = f"{episode.dtype} {list(episode.shape)}" if isinstance(episode, np.ndarray) else "an archive"
        raise UserError(f"videos: {file}: expected uint8 [T, H, W, C], got {found}")
    return episode


def _fit(file: Path, episode: np.ndarray, frame_shape: tuple[int, int, int]) -> np.ndarray:
    channels, height, width = frame_shape
    if episode.shape[3] != channels or len(episode) < 3 or min(episode.shape[1:3]) < 1:
        raise UserError(
            f"videos: {file}: expected 3 or more frames with {channels} channels last, got {list(episode.shape)}"
        )
    if episode.shape[1:3] != (height, width):
        episode = resize_area(np.ascontiguousarray(episode), height, width)
    return np.ascontiguousarray(episode.transpose(0, 3, 1, 2))


@numba.njit(cache=True)
def resize_area(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """[T, h, w, C] uint8 -> [T, height, width, C] uint8: every new pixel is the mean of the area that it covers."""
    count, old_height, old_width, channels = frames.shape
    out = np.empty((count, height, width, channels), np.uint8)
    total = np.empty(channels, np.float64)
    for t in range(count):
        for y in range(height):
            top, bottom = y * old_height / height, (y + 1) * old_height / height
            for x in range(width):
                left, right = x * old_width / width, (x + 1) * old_width / width
                total[:] = 0
                for i in range(int(top), min(int(np.ceil(bottom)), old_height)):
                    rows = min(i + 1, bottom) - max(i, top)
                    for j in range(int(left), min(int(np.ceil(right)), old_width)):
                        weight = rows * (min(j + 1, right) - max(j, left))
                        for c in range(channels):
                            total[c] += weight * frames[t, i, j, c]
                area = (bottom - top) * (right - left)
                for c in range(channels):
                    out[t, y, x, c] = min(255, int(total[c] / area + 0.5))
    return out
