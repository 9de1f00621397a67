"""Turns a user's videos into a dataset once: any format, size and rate; never more than some chunks in memory.

Files are read by worker processes, one file each, with a limit on their memory: what comes from strangers may be
damaged in ways that a decoder does not survive.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal

import numpy as np

from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.kernels.resize_area import resize_area
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.system.workers import worker_pool
from bcvlr_fast.videos.dataset import MANIFEST, DatasetWriter, Manifest, header_bytes
from bcvlr_fast.videos.marks import CutDetector
from bcvlr_fast.videos.readers import arrays, hdf5, images, lerobot, video_files
from bcvlr_fast.videos.readers.chunks import Limits, Part, Unreadable
from bcvlr_fast.videos.sampling import TimeSampler

_READERS = dict.fromkeys(arrays.SUFFIXES, "arrays")
_READERS |= dict.fromkeys(hdf5.SUFFIXES, "hdf5")
_READERS |= dict.fromkeys(video_files.SUFFIXES, "video_files")
_VERSION = 1
"""Rises where the same source gives other frames than before."""
_LEAST_FRAMES = 3
_MOST_BAD_SHARE = 0.05
_WORKER_GIB = 6
_STALLED_S = 60.0
Labels = dict[str, np.ndarray]
Split = Literal["auto", "file", "cuts"]


@dataclass(frozen=True)
class Options:
    """How to import."""

    frame_shape: tuple[int, int, int] = FRAME_SHAPE
    fps: float | None = None
    """Frames a second to keep of sources that keep time; None keeps every frame."""
    split: Split = "auto"
    """Episodes by the source's own marks, where it has none by file; by file; or by cuts in the picture."""
    key: str | None = None
    keep_labels: bool = False
    skip_bad: bool = False
    env: str = ""
    limits: Limits = field(default_factory=Limits)
    workers: int = 0


@dataclass(frozen=True)
class _Read:
    """What a worker found in one part, beside the frames that it left in a file."""

    starts: np.ndarray
    sizes: list[list[int]]
    source_fps: float | None
    labels: Labels


def default_folder(source: Path, options: Options) -> Path:
    """Where the import of `source` is cached: named by its files (names, sizes, times), the options, and the reader."""
    root = source.resolve()
    files = [root] if root.is_file() else [file for _, files in _folders(root) for file in files if file.is_file()]
    stamps = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    reads = (_VERSION, "torchcodec" if video_files.torchcodec() else "av")
    digest = hashlib.sha256(repr((stamps, replace(options, workers=0), reads)).encode()).hexdigest()[:12]
    return cache_folder() / "videos" / f"import-{root.stem}-{digest}"


def import_videos(
    source: Path,
    folder: Path,
    options: Options,
    screen: Screen,
    keep: Callable[[Path, np.ndarray, Labels], None] | None = None,
) -> Manifest:
    """Writes the dataset `folder`, which appears whole; `keep(folder, lengths, labels)` puts labels beside the frames.

    Raises UserError naming the file, what was expected and what was found; then nothing is left behind.
    """
    parts = find_parts(source, options)
    writer = DatasetWriter(folder, options.frame_shape)
    try:
        lengths: list[int] = []
        sizes: list[list[int]] = []
        rates: list[float] = []
        skipped: list[str] = []
        labels: list[Labels] = []
        with screen.bar(f"importing {source.name}", total=len(parts), unit="files") as bar:
            start = time.monotonic()

            def show(frames: int) -> None:
                """Of the part that is waited for."""
                done = sum(lengths) + frames
                bar.show(f"{done:,} frames, {done / (time.monotonic() - start):,.0f} frames/s")

            for part, file, read in _read_all(parts, writer.work, options, show):
                if isinstance(read, Unreadable):
                    file.unlink(missing_ok=True)
                    _skip(part, read, skipped, len(parts), options)
                else:
                    writer.take(file)
                    lengths += np.diff([*np.flatnonzero(read.starts), len(read.starts)]).tolist()
                    sizes += [size for size in read.sizes if size not in sizes]
                    rates += [read.source_fps] if read.source_fps else []
                    labels.append(read.labels)
                    if sum(lengths) > options.limits.frames:
                        raise UserError(
                            f"videos: {source}: more than {options.limits.frames:,} frames (--limits.frames)"
                        )
                bar.advance()
                show(0)
        if not lengths:
            raise UserError(f"videos: {source}: no file could be read: {skipped[0]}")
        if keep:
            keep(writer.work, np.array(lengths), _joined(labels, source))
        rate = float(np.median(rates)) if rates else None
        kept = min(options.fps, rate) if options.fps and rate else rate
        manifest = Manifest(
            options.env,
            str(source),
            lengths,
            list(options.frame_shape),
            source_sizes=sizes,
            source_fps=rate,
            fps=kept,
            skipped=skipped,
        )
        writer.commit(manifest)
        return manifest
    except BaseException:
        writer.abort()
        raise


def find_parts(source: Path, options: Options) -> list[Part]:
    """The files, and folders of images, of a source in natural order. Raises UserError where there are none."""
    if not source.exists():
        raise UserError(f"videos: {source}: no such file or folder")
    if (source / MANIFEST).exists():
        raise UserError(f"videos: {source} is a dataset already")
    part = Part(source, "", options.key, options.keep_labels, options.limits)
    try:
        if lerobot.is_dataset(source):
            found = lerobot.parts(replace(part, reader="lerobot"))
        elif source.is_file():
            found = [replace(part, reader=_READERS.get(source.suffix.lower(), "video_files"))]
        else:
            found = list(_in_folder(part))
    except Unreadable as error:
        raise UserError(f"videos: {source}: {error}") from None
    if not found:
        known = ", ".join((*_READERS, *images.SUFFIXES))
        raise UserError(f"videos: {source}: found no videos ({known}, a LeRobot or Minari dataset)")
    for each in found:
        if each.path.is_file() and each.path.stat().st_size > options.limits.file_gib * 2**30:
            raise UserError(f"videos: {each.path}: more than {options.limits.file_gib:g} GiB (--limits.file-gib)")
    return found


def _in_folder(part: Part) -> Iterator[Part]:
    for folder, files in _folders(part.path):
        if any(file.suffix.lower() in images.SUFFIXES for file in files):
            yield replace(part, path=folder, reader="images")
        for file in files:
            if reader := _READERS.get(file.suffix.lower()):
                yield replace(part, path=file, reader=reader)


def _folders(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its files, in natural order; links are followed, hidden ones and datasets left out."""
    seen: set[Path] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen or MANIFEST in names:  # a link in a circle; a dataset that an earlier import left here
            below.clear()
            continue
        seen.add(real)
        shown = [Path(name) for name in below if not name.startswith(".")]
        below[:] = [str(path) for path in images.natural_order(shown)]
        yield Path(folder), images.natural_order([Path(folder, name) for name in names if not name.startswith(".")])


def _read_all(
    parts: list[Part], work: Path, options: Options, show: Callable[[int], None]
) -> Iterator[tuple[Part, Path, _Read | Unreadable]]:
    """Each part with its file of frames and what was read of it, in order; workers stay a few parts ahead.

    `show` learns of frames read.
    """
    frame_bytes = math.prod(options.frame_shape)
    workers = min(len(parts), options.workers or usable_cores())
    waiting = deque(enumerate(parts))
    running: deque[tuple[Part, Path, Future[_Read | Unreadable]]] = deque()
    with worker_pool(workers, _limit_memory) as pool:
        while waiting or running:
            while waiting and len(running) < 2 * workers:
                index, part = waiting.popleft()
                file = work / f"part-{index}"
                running.append((part, file, pool.submit(_read, part, file, options)))
            part, file, future = running.popleft()
            try:
                yield part, file, _answer(future, file, lambda size: show(size // frame_bytes))
            except BrokenProcessPool:
                raise UserError(
                    f"videos: {part.path}, or a file read beside it: the decoder crashed (perhaps it needs more than "
                    f"{_WORKER_GIB} GiB)"
                ) from None
            except TimeoutError:
                raise UserError(f"videos: {part.path}: the decoder gave no frame for {_STALLED_S:.0f} s") from None


def _answer(future: Future[_Read | Unreadable], file: Path, grows: Callable[[int], None]) -> _Read | Unreadable:
    """Waits for a worker for as long as its file grows, and tells its bytes. Raises TimeoutError."""
    size, grown = -1, time.monotonic()
    while not wait([future], timeout=0.5).done:
        now = file.stat().st_size if file.exists() else -1
        if now != size:
            size, grown = now, time.monotonic()
            grows(max(0, size))
        elif size >= 0 and time.monotonic() - grown > _STALLED_S:
            raise TimeoutError
    return future.result()


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_WORKER_GIB * 2**30, resource.RLIM_INFINITY))


def _read(part: Part, file: Path, options: Options) -> _Read | Unreadable:
    """In a worker: reads a part, and leaves its frames [n, C, H, W] in `file`, behind room for a header."""
    reader = importlib.import_module(f"bcvlr_fast.videos.readers.{part.reader}")
    sampler = TimeSampler(options.fps)
    cuts = CutDetector()
    starts: list[np.ndarray] = []
    sizes: list[list[int]] = []
    labels: dict[str, list[np.ndarray]] = {}
    try:
        with file.open("wb") as out:
            out.seek(header_bytes(options.frame_shape))
            for chunk in reader.read(part):
                if (size := list(chunk.frames.shape[1:3])) not in sizes:
                    sizes.append(size)
                kept, begins = sampler.choose(chunk, marked=options.split == "auto")
                for name, values in chunk.labels.items():
                    _append(labels.setdefault(name, []), values, kept, adds=name == "reward")
                if not len(kept):
                    continue
                frames = resize_area(chunk.frames[kept], *options.frame_shape[1:])
                starts.append(cuts.starts(frames) if options.split == "cuts" else begins)
                _write(out, np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
    except UserError:
        raise
    except Unreadable as error:
        return error
    except MemoryError:
        return Unreadable(f"needs more than {_WORKER_GIB} GiB to decode")
    except Exception as error:  # a damaged file may raise anything in the libraries that read it
        return Unreadable(f"{type(error).__name__}: {error}".splitlines()[0])
    frames_read = sum(len(s) for s in starts)
    if frames_read < _LEAST_FRAMES:
        return Unreadable(f"frames: expected >= {_LEAST_FRAMES}, got {frames_read}")
    joined = np.concatenate(starts)
    joined[0] = True
    return _Read(joined, sizes, sampler.source_fps, {name: np.concatenate(v) for name, v in labels.items()})


def _append(rows: list[np.ndarray], values: np.ndarray, kept: np.ndarray, adds: bool) -> None:
    """Adds the labels [n, ...] of a chunk's kept frames; what `adds` up is summed from each to the next one."""
    if not adds:
        rows.append(values[kept])
        return
    sums = np.add.reduceat(values, kept, axis=0) if len(kept) else values[:0]
    before = values[: kept[0]] if len(kept) else values
    if len(before):  # it belongs to the last frame that was kept earlier
        earlier = next(row for row in reversed(rows) if len(row))
        earlier[-1] += before.sum(axis=0)
    rows.append(sums)


def _write(out: IO[bytes], frames: np.ndarray) -> None:
    """Raises UserError where the disk is full: the source is not to blame."""
    try:
        out.write(frames.data)
    except OSError as error:
        raise UserError(f"videos: {out.name}: {error.strerror}") from None


def _skip(part: Part, why: Unreadable, skipped: list[str], total: int, options: Options) -> None:
    line = f"{part.path}: {why}"
    if not options.skip_bad:
        raise UserError(f"videos: {line} (drop it or pass --skip-bad)")
    skipped.append(line)
    if len(skipped) > max(1, _MOST_BAD_SHARE * total):
        raise UserError(f"videos: {len(skipped)} of {total} files are bad, more than {_MOST_BAD_SHARE:.0%}: {line}")


def _joined(labels: list[Labels], source: Path) -> Labels:
    names = set(labels[0])
    if not names or any(set(each) != names for each in labels):
        raise UserError(f"videos: {source}: expected actions or rewards in every file, found {sorted(names) or 'none'}")
    try:
        return {name: np.concatenate([each[name] for each in labels]) for name in names}
    except ValueError as error:
        raise UserError(f"videos: {source}: labels of different files do not fit ({error})") from None
