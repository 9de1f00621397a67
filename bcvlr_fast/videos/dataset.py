"""Datasets of expert videos: frames and episode lengths.

Actions and rewards never appear here; they lie apart, in `videos.labels`.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import NOT_NUMPY, check_writable, free_bytes

MANIFEST, FRAMES = "manifest.json", "frames.npy"
_FORMAT = 1
_COPY_BYTES = 2**26


@dataclass(frozen=True)
class Manifest:
    """Description of a dataset, stored beside its frames."""

    env: str
    """suite:task; empty if the source did not name an environment."""
    source: str
    """`replays`, or the file or folder that the frames came from."""
    lengths: list[int]
    """Number of frames of each episode, in file order."""
    frame_shape: list[int]
    """[C, H, W] of the stored frames."""
    seed: int = 0
    source_sizes: list[list[int]] = field(default_factory=list)
    """Distinct [height, width] of the frames before resizing."""
    source_fps: float | None = None
    """Frames per second of the source; None if it has no time stamps."""
    fps: float | None = None
    """Frames per second that were kept; None if the source has no time stamps."""
    skipped: list[str] = field(default_factory=list)
    """Files left out, each with the reason."""
    training_episodes: int | None = None
    """Joined datasets only: how many episodes, from the first, are for training; the others are held out."""
    rendering: str = ""
    """How MuJoCo rendered the frames: stock or fast; empty for frames from elsewhere."""
    format: int = _FORMAT

    def describe(self) -> str:
        """One-line summary of an import."""
        sizes = ", ".join(f"{height} x {width}" for height, width in self.source_sizes)
        channels, height, width = self.frame_shape
        rate = f", {self.fps:g} of {self.source_fps:g} frames a second" if self.fps and self.source_fps else ""
        return (
            f"{sum(self.lengths):,} frames in {len(self.lengths):,} episodes, "
            f"{sizes} to {height} x {width} x {channels}{rate}"
        )


@dataclass(frozen=True)
class ExpertVideos:
    """Episodes of expert frames, stored back to back."""

    frames: np.ndarray
    """[N, C, H, W] uint8; may be a memory map."""
    manifest: Manifest
    """Describes these frames: its lengths add up to N."""
    path: Path
    """Folder of the dataset that the frames belong to."""

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """[E] int64 number of frames of each episode."""
        return np.array(self.manifest.lengths, np.int64)

    @property
    def training_episodes(self) -> int | None:
        """Number of training episodes that the manifest of a joined dataset names."""
        return self.manifest.training_episodes

    def split(self, held_out: float) -> tuple[ExpertVideos, ExpertVideos]:
        """Splits into (training, held-out) episodes.

        The last episodes are held out, as close to the fraction `held_out` of all frames as whole episodes allow. At
        least one episode is held out (unless `held_out` is 0 or there is only one episode), and at least one is left
        for training. Joined datasets use the split that their manifest names instead.
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

    def first(self, frames: int) -> ExpertVideos:
        """The first `frames` frames; the last episode may be cut short."""
        ends = np.minimum(self.lengths.cumsum(), frames)
        lengths = np.diff(ends, prepend=0)
        return self._of(self.frames[:frames], lengths[lengths > 0].tolist())

    def first_episodes(self, frames: int) -> ExpertVideos:
        """The first episodes that have at least `frames` frames, or all."""
        needed = int(np.searchsorted(self.lengths.cumsum(), frames)) + 1
        return self.part(0, min(needed, len(self.lengths)))

    def part(self, first: int, last: int) -> ExpertVideos:
        """Episodes first .. last - 1."""
        starts = np.concatenate([[0], self.lengths.cumsum()])
        return self._of(self.frames[starts[first] : starts[last]], self.manifest.lengths[first:last])

    def _of(self, frames: np.ndarray, lengths: list[int]) -> ExpertVideos:
        return ExpertVideos(frames, replace(self.manifest, lengths=lengths, training_episodes=None), self.path)


def open_videos(path: Path, frame_shape: tuple[int, int, int] | None = None) -> ExpertVideos:
    """Opens the dataset in folder `path`; its frames are mapped, not read.

    Raises UserError naming the file if it is damaged, or if its frames are not of `frame_shape` (C, H, W), where None
    accepts the shape that the manifest states.
    """
    manifest = read_manifest(path)
    try:
        frames = np.load(path / FRAMES, mmap_mode="r", allow_pickle=False)
    except NOT_NUMPY as error:
        raise UserError(f"videos: {path / FRAMES}: {error}") from None
    expected = (sum(manifest.lengths), *(frame_shape or manifest.frame_shape))
    if frames.dtype != np.uint8 or frames.shape != expected:
        raise UserError(
            f"videos: {path / FRAMES}: expected uint8 {list(expected)}, got {frames.dtype} {list(frames.shape)}"
        )
    return ExpertVideos(frames, manifest, path)


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a dataset folder. Raises UserError if it is missing or damaged."""
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
        if not isinstance(values, list) or not all(_are_sizes(value, count) for value in values):
            raise UserError(f"videos: {file}: {name}: expected {count} positive integers, found {values}")
    for name, rate in (("fps", manifest.fps), ("source_fps", manifest.source_fps)):
        if rate is not None and not (isinstance(rate, int | float) and rate > 0):
            raise UserError(f"videos: {file}: {name}: expected a positive number or null, found {rate!r}")
    return manifest


def _are_sizes(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(n, int) and n > 0 for n in value)


def header_bytes(frame_shape: tuple[int, int, int]) -> int:
    """Offset of the frames in a dataset's file: numpy pads its header so that it fits any number of rows."""
    return len(_header(0, frame_shape))


def _header(frames: int, frame_shape: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (frames, *frame_shape)}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue()


class DatasetWriter:
    """Writes a dataset into a temporary folder, which `commit` renames to `folder` once it is complete.

    As a context it removes what was written if an error leaves it. Raises UserError if the folder cannot be written.
    """

    def __init__(self, folder: Path, frame_shape: tuple[int, int, int]) -> None:
        check_writable(folder, "videos")
        self.folder, self.frame_shape = folder, frame_shape
        for old in folder.parent.glob(f".{glob.escape(folder.name)}.*"):  # left behind by killed processes
            if old.suffix[1:].isdecimal() and not Path("/proc", old.suffix[1:]).exists() and Path("/proc").exists():
                shutil.rmtree(old, ignore_errors=True)
        self.work = folder.with_name(f".{folder.name}.{os.getpid()}")
        self.work.mkdir(parents=True)
        self._file: BinaryIO = (self.work / FRAMES).open("wb")
        self._write_header(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()

    def append(self, frames: np.ndarray) -> None:
        """Adds frames [n, C, H, W] uint8. Raises UserError if the disk is full."""
        assert frames.dtype == np.uint8, frames.dtype
        assert frames.shape[1:] == self.frame_shape, frames.shape
        with self._room():
            self._file.write(np.ascontiguousarray(frames).data)

    def take(self, file: Path) -> None:
        """Adds the frames that a worker wrote to `file`, after space for a header, and removes the file.

        Raises UserError if the disk is full.
        """
        with self._room():
            if self._file.tell() == header_bytes(self.frame_shape):  # the first file becomes the dataset's: no copy
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
        """Completes the dataset; `manifest.lengths` must add up to the number of frames added."""
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
        """Removes everything that was written."""
        with contextlib.suppress(OSError):  # closing flushes, which may fail; the file is deleted anyway
            self._file.close()
        shutil.rmtree(self.work, ignore_errors=True)
