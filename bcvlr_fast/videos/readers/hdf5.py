"""Reads HDF5 files, including Minari datasets: one episode per group, or one array with episode flags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.videos.readers.arrays import ACTION_NAMES, FRAME_NAMES, choose_frames, chunks, find_labels, find_starts
from bcvlr_fast.videos.readers.chunks import CHUNK_BYTES, CHUNK_FRAMES, Part, Reader, Unreadable, as_rgb
from bcvlr_fast.videos.readers.images import natural_order

SUFFIXES = (".hdf5", ".h5", ".hdf")
_IGNORED_GROUPS = ("next_obs", "next_observations", "infos", "info")
"""Groups whose images are not frames of the video, or repeat them."""


def read(part: Part) -> Reader:
    """Yields the frames of one file. Raises Unreadable if it is damaged."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise Unreadable("HDF5 needs the package 'h5py' (extra [video])") from None
    try:
        with h5py.File(part.path, "r") as file:
            episodes = _episodes(file, part.key)
            for group, name in episodes:
                yield from _episode(group, name, part, alone=len(episodes) == 1)
    except (OSError, RuntimeError, KeyError) as error:
        raise Unreadable(f"not a whole HDF5 file ({error})") from None


def _episodes(file: Any, key: str | None) -> list[tuple[Any, str]]:
    """(group, name of its frames) of each episode, in natural order."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    _collect(file, "", found)
    if not found:
        raise Unreadable("expected uint8 arrays of frames, found none")
    if key is not None and any(key in arrays for arrays in found.values()):
        found = {path: arrays for path, arrays in found.items() if key in arrays}
    groups = [str(path) for path in natural_order([Path(path) for path in found])]
    names = ["" if group == "." else group for group in groups]
    return [(file[name] if name else file, choose_frames(found[name], key)) for name in names]


def _collect(group: Any, path: str, found: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """Collects the shapes of arrays of frames by episode group.

    `observations/images/top` belongs to the group that holds `observations`.
    """
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise Unreadable(f"{path}/{name}: links out of the file are not followed")
        if isinstance(link, h5py.SoftLink) or name in _IGNORED_GROUPS:
            continue
        item = group[name]
        if isinstance(item, h5py.Group):
            _collect(item, f"{path}/{name}".lstrip("/"), found)
            continue
        if item.is_virtual or item.external:
            raise Unreadable(f"{path}/{name}: data outside the file is not read")
        if item.dtype == np.uint8 and item.ndim in (3, 4) and min(item.shape) > 0:
            episode, key = path, name
            while (last := episode.rpartition("/")[2]) in FRAME_NAMES:
                episode, key = episode.rpartition("/")[0], f"{last}/{key}"
            found.setdefault(episode, {})[key] = item.shape


def _episode(group: Any, name: str, part: Part, alone: bool) -> Reader:
    """Yields the frames of a group.

    A group is one episode if there are several groups, or if it has one observation more than actions; otherwise
    episode flags divide it.
    """
    frames = group[name]
    count = len(frames)
    if count > part.limits.frames:
        raise Unreadable(f"{name}: expected at most {part.limits.frames:,} frames, got {count:,}")

    def small(names: tuple[str, ...]) -> np.ndarray | None:
        """Pads arrays of N - 1 rows, as Minari stores them, by repeating the last action, or with zero."""
        for key in names:
            if key in group and hasattr(group[key], "shape") and group[key].shape[:1] in ((count,), (count - 1,)):
                values = group[key][()]
                missing = count - len(values)
                fill = values[-1:] if names == ACTION_NAMES else np.zeros_like(values[-1:])
                return np.concatenate([values, fill]) if missing else values
        return None

    def blocks() -> Iterator[np.ndarray]:
        rows = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // int(np.prod(frames.shape[1:]))))
        for start in range(0, count, rows):
            yield as_rgb(frames[start : start + rows], name, part.limits)

    single_episode = not alone or any(key in group and len(group[key]) == count - 1 for key in ACTION_NAMES)
    starts = None if single_episode else find_starts(small, blocks)
    if starts is None:
        starts = np.zeros(count, bool)
    starts[0] = True
    yield from chunks(blocks(), starts, find_labels(small) if part.wants_labels else {})
