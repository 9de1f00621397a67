"""Reads .npy episodes and .npz archives (LAPO's chunks, the official code's stacked frames) in pieces."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from bcvlr_fast.videos.marks import DONE_NAMES, END_NAMES, START_NAMES, TRUNCATION_NAMES, done_means, starts_of
from bcvlr_fast.videos.readers.chunks import CHUNK_BYTES, CHUNK_FRAMES, Chunk, Limits, Part, Reader, Unreadable, as_rgb

SUFFIXES = (".npy", ".npz")
FRAME_NAMES = ("obs", "observations", "observation", "frames", "images", "image", "pixels", "video")
ACTION_NAMES = ("action", "actions", "ta")
REWARD_NAMES = ("reward", "rewards")
SmallArrays = Callable[[tuple[str, ...]], np.ndarray | None]
_Header = tuple[tuple[int, ...], np.dtype]
_MAX_LABEL_SIZE = 64
"""Maximum number of elements per frame of a label array."""


def read(part: Part) -> Reader:
    """Yields the frames of one file. Raises Unreadable if it is damaged."""
    return _read_npy(part) if part.path.suffix.lower() == ".npy" else _read_npz(part)


def _read_npy(part: Part) -> Reader:
    with part.path.open("rb") as file:
        shape, dtype = _header(file, part.path.name)
        _check_size(shape, dtype, part.path.stat().st_size - file.tell(), "array", part.limits)
        first = True
        for block in _blocks(file, shape, dtype):
            starts = np.zeros(len(block), bool)
            starts[0], first = first, False
            yield Chunk(as_rgb(block, "array", part.limits), starts)


def _read_npz(part: Part) -> Reader:
    try:
        with zipfile.ZipFile(part.path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            headers: dict[str, _Header] = {}
            faults: dict[str, Unreadable] = {}
            for name, info in members.items():
                try:
                    with archive.open(info) as file:
                        headers[name] = _header(file, name)
                except Unreadable as fault:  # matters only if this array holds the frames
                    faults[name] = fault
            if part.key in faults or not headers:
                raise faults[part.key or next(iter(faults))] if faults else Unreadable("expected arrays, found none")
            frames = choose_frames({name: shape for name, (shape, _) in headers.items()}, part.key)
            if members[frames].file_size > part.limits.ratio * max(1, members[frames].compress_size):
                raise Unreadable(f"{frames}: unpacks to more than {part.limits.ratio:g} times its size")
            small = _small(archive, members, headers, headers[frames][0][0])

            def blocks() -> Iterator[np.ndarray]:
                with archive.open(members[frames]) as file:
                    shape, dtype = _header(file, frames)
                    _check_size(shape, dtype, members[frames].file_size - file.tell(), frames, part.limits)
                    for block in _blocks(file, shape, dtype):
                        yield as_rgb(block, frames, part.limits)

            yield from chunks(blocks(), find_starts(small, blocks), find_labels(small) if part.wants_labels else {})
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"not a whole archive ({error})") from None


def choose_frames(shapes: dict[str, tuple[int, ...]], key: str | None) -> str:
    """Name of the array with the frames: `key`, a usual name, or the only array of three or more dimensions.

    Raises Unreadable if that is ambiguous.
    """
    if key is not None:
        if key not in shapes:
            raise Unreadable(f"key: no array '{key}' (found {', '.join(sorted(shapes))})")
        if len(shapes[key]) < 3:
            raise Unreadable(f"key: expected [frames, height, width, channels], '{key}' is {list(shapes[key])}")
        return key
    pictures = [name for name, shape in shapes.items() if len(shape) >= 4] or [
        name for name, shape in shapes.items() if len(shape) == 3
    ]
    named = [name for name in FRAME_NAMES if name in pictures]
    if named or len(pictures) == 1:
        return (named or pictures)[0]
    raise Unreadable(f"expected one array of frames, found {', '.join(sorted(pictures)) or 'none'} (--key chooses)")


def find_starts(small: SmallArrays, blocks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray | None:
    """[N] bool, True on the first frame of each episode, from the source's own flags; None if it has none.

    `small(names)` returns the array [N] under one of these names, and `blocks()` yields the frames from the start.
    """
    for names, means in ((START_NAMES, "first"), (END_NAMES, "last")):
        if (flags := small(names)) is not None:
            return starts_of(flags, means)
    done, cut = small(DONE_NAMES), small(TRUNCATION_NAMES)
    if done is None and cut is None:
        return None
    flags = sum((x.reshape(-1) != 0 for x in (done, cut) if x is not None), start=np.zeros(1, bool))
    return starts_of(flags, done_means(flags, blocks()))


def find_labels(small: SmallArrays) -> dict[str, np.ndarray]:
    """The `action` and `reward` arrays of the source, if it has them."""
    labels = {"action": small(ACTION_NAMES), "reward": small(REWARD_NAMES)}
    return {name: values for name, values in labels.items() if values is not None}


def chunks(blocks: Iterator[np.ndarray], starts: np.ndarray | None, labels: dict[str, np.ndarray]) -> Reader:
    """Yields blocks of frames together with their rows of marks [N] and labels [N, ...]."""
    row = 0
    for block in blocks:
        rows = slice(row, row + len(block))
        row += len(block)
        yield Chunk(
            block, None if starts is None else starts[rows], labels={name: v[rows] for name, v in labels.items()}
        )


def _blocks(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yields the rows of an array in pieces; `file` is positioned behind its header."""
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    rows = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // row_bytes))
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        data = file.read(count * row_bytes)
        if len(data) != count * row_bytes:
            raise Unreadable(f"ends after {start + len(data) // row_bytes} of {shape[0]} rows")
        yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


def _header(file: IO[bytes], name: str) -> _Header:
    """Reads shape and dtype from the header of an .npy file.

    Raises Unreadable for object arrays, Fortran order, and other files.
    """
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except (ValueError, EOFError, tokenize.TokenError, SyntaxError) as error:
        raise Unreadable(f"{name}: not a numpy array ({error})") from None
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise Unreadable(f"{name}: expected plain rows, got {'objects' if dtype.hasobject else 'Fortran order'}")
    return shape, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype, size: int, name: str, limits: Limits) -> None:
    """Raises Unreadable if the header does not describe frames, or does not match the size of the file in bytes."""
    if len(shape) < 3 or min(shape) < 1 or dtype != np.uint8:
        raise Unreadable(f"{name}: expected uint8 [frames, height, width, channels], got {dtype} {list(shape)}")
    if shape[0] > limits.frames:
        raise Unreadable(f"{name}: expected at most {limits.frames:,} frames, got {shape[0]:,}")
    if (promised := math.prod(shape) * dtype.itemsize) != size:
        raise Unreadable(f"{name}: its header promises {promised:,} bytes, {size:,} are there")


def _small(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    headers: dict[str, _Header],
    count: int,
) -> SmallArrays:
    """Returns a function that reads a whole array [count, ...] of few numbers by any of its names."""

    def small(names: tuple[str, ...]) -> np.ndarray | None:
        for name in names:
            shape, dtype = headers.get(name, ((), np.dtype(object)))
            if shape[:1] != (count,) or math.prod(shape) > _MAX_LABEL_SIZE * count or dtype.kind not in "biuf":
                continue
            with archive.open(members[name]) as file:
                _header(file, name)
                data = file.read(math.prod(shape) * dtype.itemsize)
            if len(data) == math.prod(shape) * dtype.itemsize:
                return np.frombuffer(data, dtype).reshape(shape)
        return None

    return small
