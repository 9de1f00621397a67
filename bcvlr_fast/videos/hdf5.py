"""HDF5 files, Minari's datasets among them: an episode per group, or one long array with marks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.videos.arrays import (
    ACTION_NAMES,
    FRAME_NAMES,
    RETURN_NAMES,
    choose_frames,
    chunks,
    find_labels,
    find_starts,
)
from bcvlr_fast.videos.chunks import CHUNK_FRAMES, Part, Reader, Unreadable, as_rgb
from bcvlr_fast.videos.images import natural_order

SUFFIXES = (".hdf5", ".h5", ".hdf")


def read(part: Part) -> Reader:
    """The frames of one file."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise Unreadable("HDF5 needs the package 'h5py' (extra [video])") from None
    try:
        with h5py.File(part.path, "r") as file:
            for group, name in _episodes(file, part.key):
                yield from _episode(group, name, part)
    except (OSError, RuntimeError, KeyError) as error:
        raise Unreadable(f"not a whole HDF5 file ({error})") from None


def _episodes(file: Any, key: str | None) -> list[tuple[Any, str]]:
    """(group, name of its frames) in the natural order of the groups."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    _collect(file, "", found)
    if not found:
        raise Unreadable("expected uint8 arrays of frames, found none")
    groups = [str(path) for path in natural_order([Path(path) for path in found])]
    names = ["" if group == "." else group for group in groups]
    return [(file[name] if name else file, choose_frames(found[name], key)) for name in names]


def _collect(group: Any, path: str, found: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """Arrays of frames by the episode's group; `observations/pixels` belongs to the group of `observations`."""
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise Unreadable(f"{path}/{name}: links out of the file are not followed")
        item = group[name]
        if isinstance(item, h5py.Group):
            _collect(item, f"{path}/{name}".lstrip("/"), found)
            continue
        if item.is_virtual or item.external:
            raise Unreadable(f"{path}/{name}: data outside the file is not read")
        if item.dtype == np.uint8 and item.ndim in (3, 4) and min(item.shape) > 0:
            parent, _, last = path.rpartition("/")
            inside = last in ("obs", *FRAME_NAMES)
            episode, key = (parent, f"{last}/{name}") if inside else (path, name)
            found.setdefault(episode, {})[key] = item.shape


def _episode(group: Any, name: str, part: Part) -> Reader:
    frames = group[name]
    count = len(frames)
    if count > part.limits.frames:
        raise Unreadable(f"{name}: expected at most {part.limits.frames:,} frames, got {count:,}")

    def small(names: tuple[str, ...]) -> np.ndarray | None:
        """Minari holds one observation more than actions: what is missing at the end is filled with the last row."""
        for key in names:
            if key in group and hasattr(group[key], "shape") and group[key].shape[:1] in ((count,), (count - 1,)):
                values = group[key][()]
                missing = count - len(values)
                fill = values[-1:] if names in (ACTION_NAMES, RETURN_NAMES) else np.zeros_like(values[-1:])
                return np.concatenate([values, fill]) if missing else values
        return None

    def blocks() -> Iterator[np.ndarray]:
        rows = max(1, min(CHUNK_FRAMES, 2**26 // int(np.prod(frames.shape[1:]))))
        for start in range(0, count, rows):
            yield as_rgb(frames[start : start + rows], name, part.limits)

    starts = find_starts(small, blocks)
    if starts is None:
        starts = np.zeros(count, bool)
    starts[0] = True
    yield from chunks(blocks(), starts, find_labels(small) if part.wants_labels else {})
