"""Converts videos of any format, size and rate to a dataset, holding only a few chunks of frames in memory.

Worker processes with limited memory read one file each, because a damaged file may crash its decoder.
"""

from __future__ import annotations

import hashlib
import math
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from bcvlr_fast.envs import spec
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.kernels.resize_area import resize_area
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.system.workers import worker_pool
from bcvlr_fast.videos import readers
from bcvlr_fast.videos.dataset import MANIFEST, DatasetWriter, Manifest, header_bytes
from bcvlr_fast.videos.labels import labels_from_source
from bcvlr_fast.videos.marks import CutDetector
from bcvlr_fast.videos.readers import video_files
from bcvlr_fast.videos.readers.chunks import Limits, Part, Unreadable
from bcvlr_fast.videos.sampling import TimeSampler
from bcvlr_fast.videos.sources import list_files, list_parts

_VERSION = 1
"""Incremented when the same source yields different frames than before."""
_MIN_FRAMES = 3
_MAX_BAD_FRACTION = 0.05
_WORKER_GIB = 6
_STALL_S = 60.0
Labels = dict[str, np.ndarray]
Split = Literal["auto", "file", "cuts"]


@dataclass(frozen=True)
class Options:
    """How to import a source."""

    frame_shape: tuple[int, int, int] = FRAME_SHAPE
    """(C, H, W) of the dataset's frames."""
    fps: float | None = None
    """Frames per second to keep from sources with time stamps; None keeps every frame."""
    split: Split = "auto"
    """Where episodes begin: at the source's own marks, else at each file (auto); at each file; or at cuts."""
    key: str | None = None
    """Array or camera to read, if the source has several."""
    keep_labels: bool = False
    """Whether to store the source's actions and rewards beside the frames."""
    skip_bad: bool = False
    """Whether to skip unreadable files."""
    env: str = ""
    """Environment that the manifest names."""
    limits: Limits = field(default_factory=Limits)
    workers: int = 0
    """Number of worker processes; 0 uses one per core."""

    @classmethod
    def for_env(cls, env: str, fps: float | None = None, **others: Any) -> Options:
        """Options for videos of `env`: `fps` defaults to its steps per second, and 0 keeps every frame.

        Raises UserError if there is no such environment, or `fps` is out of range.
        """
        env_spec = spec(env)
        if fps is not None and not 0 <= fps <= 1000:
            raise UserError(f"fps: expected 0 .. 1000, got {fps:g}")
        return cls(env_spec.frame_shape, env_spec.steps_per_s if fps is None else fps or None, env=env, **others)


@dataclass(frozen=True)
class _PartSummary:
    """What a worker learned from one part, beside the frames that it wrote to a file."""

    starts: np.ndarray
    """[n] bool, True on the first frame of each episode."""
    sizes: list[list[int]]
    source_fps: float | None
    labels: Labels


def import_source(source: Path, out: Path | None, options: Options, screen: Screen, *, overwrite: bool = False) -> Path:
    """Imports a source, prints a summary, and returns the dataset folder: `out`, or else one in the cache.

    Raises UserError if the source cannot be read, or the folder exists and `overwrite` is False.
    """
    if not source.exists():
        raise UserError(f"videos: {source}: no such file or folder")
    folder = out or default_folder(source, options)
    if folder.exists() and not overwrite:
        raise UserError(f"out: {folder} exists (--force imports it again)")
    if folder.exists() and not (folder / MANIFEST).exists():
        raise UserError(f"out: {folder} exists and is not a dataset")
    manifest = import_videos(source, folder, options, screen)
    screen.say(manifest.describe())
    for line in manifest.skipped:
        screen.warn(f"left out: {line}")
    screen.say(f"videos: {folder}")
    return folder


def default_folder(source: Path, options: Options) -> Path:
    """Cache folder of an import, named after the files (names, sizes, times), the options, and the decoder."""
    root = source.resolve()
    stamps = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in list_files(root)]
    decoder = (_VERSION, "torchcodec" if video_files.torchcodec() else "av")
    digest = hashlib.sha256(repr((stamps, replace(options, workers=0), decoder)).encode()).hexdigest()[:12]
    return cache_folder() / "videos" / f"import-{root.stem}-{digest}"


def find_parts(source: Path, options: Options) -> list[Part]:
    """Files, and folders of images, of a source in natural order. Raises UserError if there are none."""
    return list_parts(Part(source, "", options.key, options.keep_labels, options.limits))


def import_videos(source: Path, folder: Path, options: Options, screen: Screen) -> Manifest:
    """Writes the dataset `folder`, which appears only when it is complete.

    Raises UserError naming the file, what was expected and what was found; nothing is left behind then.
    """
    parts = find_parts(source, options)
    with DatasetWriter(folder, options.frame_shape) as writer:
        lengths: list[int] = []
        sizes: list[list[int]] = []
        rates: list[float] = []
        skipped: list[str] = []
        labels: list[Labels] = []
        with screen.bar(f"importing {source.name}", total=len(parts), unit="files") as bar:
            start = time.monotonic()

            def show(frames: int) -> None:
                """Shows progress, where `frames` were read of the part that is in progress."""
                done = sum(lengths) + frames
                bar.show(f"{done:,} frames, {done / (time.monotonic() - start):,.0f} frames/s")

            for part, file, result in _read_all(parts, writer.work, options, show):
                if isinstance(result, Unreadable):
                    file.unlink(missing_ok=True)
                    _skip(part, result, skipped, len(parts), options)
                else:
                    writer.take(file)
                    lengths += np.diff([*np.flatnonzero(result.starts), len(result.starts)]).tolist()
                    sizes += [size for size in result.sizes if size not in sizes]
                    rates += [result.source_fps] if result.source_fps else []
                    labels.append(result.labels)
                    if sum(lengths) > options.limits.frames:
                        raise UserError(
                            f"videos: {source}: more than {options.limits.frames:,} frames (--limits.frames)"
                        )
                bar.advance()
                show(0)
        if not lengths:
            raise UserError(f"videos: {source}: no file could be read: {skipped[0]}")
        if options.keep_labels:
            joined = _joined(labels, source)
            labels_from_source(np.array(lengths), joined.get("action"), joined.get("reward")).save(writer.work)
        rate = float(np.median(rates)) if rates else None
        manifest = Manifest(
            options.env,
            str(source),
            lengths,
            list(options.frame_shape),
            source_sizes=sizes,
            source_fps=rate,
            fps=min(options.fps, rate) if options.fps and rate else rate,
            skipped=skipped,
        )
        writer.commit(manifest)
        return manifest


def _read_all(
    parts: list[Part], work: Path, options: Options, show: Callable[[int], None]
) -> Iterator[tuple[Part, Path, _PartSummary | Unreadable]]:
    """Yields each part, the file of its frames and its summary, in order; workers run a few parts ahead.

    `show` receives the number of frames read so far from the part in progress.
    """
    frame_bytes = math.prod(options.frame_shape)
    workers = min(len(parts), options.workers or usable_cores())
    waiting = deque(enumerate(parts))
    running: deque[tuple[Part, Path, Future[_PartSummary | Unreadable]]] = deque()
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
                raise UserError(f"videos: {part.path}: the decoder gave no frame for {_STALL_S:.0f} s") from None


def _answer(
    future: Future[_PartSummary | Unreadable], file: Path, show_bytes: Callable[[int], None]
) -> _PartSummary | Unreadable:
    """Waits for a worker as long as its file grows. Raises TimeoutError if it stops growing."""
    size, grown = -1, time.monotonic()
    while not wait([future], timeout=0.5).done:
        now = file.stat().st_size if file.exists() else -1
        if now != size:
            size, grown = now, time.monotonic()
            show_bytes(max(0, size))
        elif size >= 0 and time.monotonic() - grown > _STALL_S:
            raise TimeoutError
    return future.result()


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_WORKER_GIB * 2**30, resource.RLIM_INFINITY))


def _read(part: Part, file: Path, options: Options) -> _PartSummary | Unreadable:
    """Runs in a worker: writes the frames [n, C, H, W] of a part to `file`, after space for a header."""
    sampler = TimeSampler(options.fps)
    cuts = CutDetector()
    starts: list[np.ndarray] = []
    sizes: list[list[int]] = []
    labels: dict[str, list[np.ndarray]] = {}
    try:
        with file.open("wb") as out:
            out.seek(header_bytes(options.frame_shape))
            for chunk in readers.read(part):
                if (size := list(chunk.frames.shape[1:3])) not in sizes:
                    sizes.append(size)
                rows, begins = sampler.choose(chunk, marked=options.split == "auto")
                for name, values in chunk.labels.items():
                    _append(labels.setdefault(name, []), values, rows, summed=name == "reward")
                if not len(rows):
                    continue
                frames = resize_area(chunk.frames[rows], *options.frame_shape[1:])
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
    if frames_read < _MIN_FRAMES:
        return Unreadable(f"frames: expected >= {_MIN_FRAMES}, got {frames_read}")
    joined = np.concatenate(starts)
    joined[0] = True
    return _PartSummary(joined, sizes, sampler.source_fps, {name: np.concatenate(v) for name, v in labels.items()})


def _append(blocks: list[np.ndarray], values: np.ndarray, rows: np.ndarray, summed: bool) -> None:
    """Appends the labels [n, ...] of the chosen rows of a chunk.

    With `summed`, the labels of skipped rows are added to the chosen row before them.
    """
    if not summed:
        blocks.append(values[rows])
        return
    sums = np.add.reduceat(values, rows, axis=0) if len(rows) else values[:0]
    before = values[: rows[0]] if len(rows) else values
    if len(before):  # they belong to the last row chosen from earlier chunks
        earlier = next(block for block in reversed(blocks) if len(block))
        earlier[-1] += before.sum(axis=0)
    blocks.append(sums)


def _write(out: IO[bytes], frames: np.ndarray) -> None:
    """Raises UserError if the disk is full, so that the source is not reported as bad."""
    try:
        out.write(frames.data)
    except OSError as error:
        raise UserError(f"videos: {out.name}: {error.strerror}") from None


def _skip(part: Part, reason: Unreadable, skipped: list[str], total: int, options: Options) -> None:
    line = f"{part.path}: {reason}"
    if not options.skip_bad:
        raise UserError(f"videos: {line} (drop it or pass --skip-bad)")
    skipped.append(line)
    if len(skipped) > max(1, _MAX_BAD_FRACTION * total):
        raise UserError(f"videos: {len(skipped)} of {total} files are bad, more than {_MAX_BAD_FRACTION:.0%}: {line}")


def _joined(labels: list[Labels], source: Path) -> Labels:
    """Concatenates the labels of all parts."""
    names = set(labels[0])
    if not names or any(set(each) != names for each in labels):
        raise UserError(f"videos: {source}: expected actions or rewards in every file, found {sorted(names) or 'none'}")
    try:
        return {name: np.concatenate([each[name] for each in labels]) for name in names}
    except ValueError as error:
        raise UserError(f"videos: {source}: labels of different files do not fit ({error})") from None
