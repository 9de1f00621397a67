"""Datasets of expert videos: frames and episode lengths, nothing else. What an expert did has no place here."""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import NOT_NUMPY, check_writable, free_bytes

MANIFEST, FRAMES = "manifest.json", "frames.npy"
_FORMAT = 1
_COPY_BYTES = 2**26


@dataclass(frozen=True)
class Manifest:
    """What a dataset folder says of itself."""

    env: str
    """suite:task; empty where the source did not say."""
    source: str
    """replays, or the file or folder that the frames came from."""
    lengths: list[int]
    """Frames of each episode, in the order of the file."""
    frame_shape: list[int]
    seed: int = 0
    source_sizes: list[list[int]] = field(default_factory=list)
    """[height, width] of the frames before they were resized, each size once."""
    source_fps: float | None = None
    """Frames a second of the source, and `fps` of what was kept of it; None where it keeps no time."""
    fps: float | None = None
    skipped: list[str] = field(default_factory=list)
    """Files left out, and why."""
    training_episodes: int | None = None
    """Of joined datasets: the first episodes, to train on; the others are those that each of them holds out."""
    rendering: str = ""
    """How MuJoCo drew the frames: stock or fast; empty where it did not."""
    format: int = _FORMAT

    def describe(self) -> str:
        """What was imported, in a line."""
        sizes = ", ".join(f"{height} x {width}" for height, width in self.source_sizes)
        channels, height, width = self.frame_shape
        rate = f", {self.fps:g} of {self.source_fps:g} frames a second" if self.fps and self.source_fps else ""
        return (
            f"{sum(self.lengths):,} frames in {len(self.lengths):,} episodes, "
            f"{sizes} to {height} x {width} x {channels}{rate}"
        )


@dataclass(frozen=True)
class Videos:
    """Episodes of frames, one after another.

    `frames` [N, C, H, W] uint8 may be a memory map; `lengths` [E] int64 sums to N.
    """

    frames: np.ndarray
    lengths: np.ndarray
    path: Path
    training_episodes: int | None = None
    """As in the manifest."""

    def split(self, held_out: float) -> tuple[Videos, Videos]:
        """(training, held-out) episodes: the last ones, as near to that share of the frames as episodes allow, or
        those that the manifest names.

        At least one episode is held out (unless `held_out` is 0 or there is only one), and one left.
        """
        episodes = len(self.lengths)
        if self.training_episodes is not None:
            first = self.training_episodes
        elif held_out == 0 or episodes < 2:
            first = episodes
        else:
            ends = self.lengths.cumsum()
            first = 1 + int(np.abs(ends[:-1] - (1 - held_out) * ends[-1]).argmin())
        return self.part(0, first), self.part(first, episodes)

    def first(self, frames: int) -> Videos:
        """The first `frames` frames; the last episode of them may be cut."""
        ends = np.minimum(self.lengths.cumsum(), frames)
        lengths = np.diff(ends, prepend=0)
        return Videos(self.frames[:frames], lengths[lengths > 0], self.path)

    def part(self, first: int, last: int) -> Videos:
        """Episodes first .. last - 1."""
        starts = np.concatenate([[0], self.lengths.cumsum()])
        return Videos(self.frames[starts[first] : starts[last]], self.lengths[first:last], self.path)


def open_videos(path: Path, frame_shape: tuple[int, int, int]) -> Videos:
    """The dataset in folder `path`, whose frames must be of `frame_shape` (C, H, W).

    Raises UserError naming the file, what was expected and what was found.
    """
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
    return Videos(frames, lengths, path, manifest.training_episodes)


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
    for name, values, count in (("frame_shape", [manifest.frame_shape], 3), ("source_sizes", manifest.source_sizes, 2)):
        if not isinstance(values, list) or not all(_sizes(value, count) for value in values):
            raise UserError(f"videos: {file}: {name}: expected {count} positive integers, found {values}")
    for name, rate in (("fps", manifest.fps), ("source_fps", manifest.source_fps)):
        if rate is not None and not (isinstance(rate, int | float) and rate > 0):
            raise UserError(f"videos: {file}: {name}: expected a positive number or null, found {rate!r}")
    return manifest


def _sizes(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(n, int) and n > 0 for n in value)


def header_bytes(frame_shape: tuple[int, int, int]) -> int:
    """Where the frames begin in a dataset's file: numpy leaves room in a header for any number of rows."""
    return len(_header(0, frame_shape))


def _header(frames: int, frame_shape: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (frames, *frame_shape)}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue()


class DatasetWriter:
    """Writes a dataset into a temporary folder beside `folder`, which appears whole on `commit`.

    Raises UserError where the folder cannot be written.
    """

    def __init__(self, folder: Path, frame_shape: tuple[int, int, int]) -> None:
        check_writable(folder, "videos")
        self.folder, self.frame_shape = folder, frame_shape
        for old in folder.parent.glob(f".{glob.escape(folder.name)}.*"):  # of processes that were killed
            if old.suffix[1:].isdecimal() and not Path("/proc", old.suffix[1:]).exists() and Path("/proc").exists():
                shutil.rmtree(old, ignore_errors=True)
        self.work = folder.with_name(f".{folder.name}.{os.getpid()}")
        self.work.mkdir(parents=True)
        self._file: BinaryIO = (self.work / FRAMES).open("wb")
        self._write_header(0)

    def append(self, frames: np.ndarray) -> None:
        """Adds frames [n, C, H, W] uint8. Raises UserError where the disk is full."""
        assert frames.dtype == np.uint8, frames.dtype
        assert frames.shape[1:] == self.frame_shape, frames.shape
        with self._room():
            self._file.write(np.ascontiguousarray(frames).data)

    def take(self, file: Path) -> None:
        """Moves in the frames that a worker left in `file`, behind room for a header. Raises UserError as `append`."""
        with self._room():
            if self._file.tell() == header_bytes(self.frame_shape):  # the first: no need to write it again
                self._file.close()
                file.replace(self.work / FRAMES)
                self._file = (self.work / FRAMES).open("r+b")
                self._file.seek(0, os.SEEK_END)
            else:
                with file.open("rb") as part:
                    part.seek(header_bytes(self.frame_shape))
                    shutil.copyfileobj(part, self._file, _COPY_BYTES)
                file.unlink()

    def commit(self, manifest: Manifest) -> None:
        """Ends the dataset; `manifest.lengths` must add up to the frames that were added."""
        with self._room():
            self._write_header(sum(manifest.lengths))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            (self.work / MANIFEST).write_text(json.dumps(asdict(manifest)))
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.work.rename(self.folder)

    def _write_header(self, frames: int) -> None:
        self._file.seek(0)
        self._file.write(_header(frames, self.frame_shape))

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            free = f"{free_bytes(self.folder):,} bytes are free"
            raise UserError(f"videos: {self.folder}: {error.strerror}; {free}") from None

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # what is left to write of a file that goes
            self._file.close()
        shutil.rmtree(self.work, ignore_errors=True)
