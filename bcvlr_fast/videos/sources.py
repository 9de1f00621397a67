"""Lists the files and folders that make up a source of videos, in natural order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.videos import readers
from bcvlr_fast.videos.dataset import MANIFEST
from bcvlr_fast.videos.readers.chunks import Part, Unreadable
from bcvlr_fast.videos.readers.images import natural_order


def list_parts(root: Part) -> list[Part]:
    """Files, and folders of images, below `root.path`. Raises UserError if there are none, or one is too large."""
    source, limit_gib = root.path, root.limits.file_gib
    if not source.exists():
        raise UserError(f"videos: {source}: no such file or folder")
    if (source / MANIFEST).exists():
        raise UserError(f"videos: {source} is a dataset already")
    try:
        parts = readers.dataset_parts(root)
        if parts is None and source.is_file():
            parts = [readers.file_part(root)]
        elif parts is None:
            parts = [part for folder, files in _folders(source) for part in readers.folder_parts(root, folder, files)]
    except Unreadable as error:
        raise UserError(f"videos: {source}: {error}") from None
    if not parts:
        raise UserError(
            f"videos: {source}: found no videos ({', '.join(readers.SUFFIXES)}, a LeRobot or Minari dataset)"
        )
    for part in parts:
        if part.path.is_file() and part.path.stat().st_size > limit_gib * 2**30:
            raise UserError(f"videos: {part.path}: more than {limit_gib:g} GiB (--limits.file-gib)")
    return parts


def list_files(source: Path) -> list[Path]:
    """Every visible file of a source, whether a reader knows it or not."""
    if source.is_file():
        return [source]
    return [file for _, files in _folders(source) for file in files if file.is_file()]


def _folders(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its files, in natural order. Follows links; skips hidden entries and imported datasets."""
    visited: set[Path] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in visited or MANIFEST in names:  # a cycle of links, or a dataset of an earlier import
            below.clear()
            continue
        visited.add(real)
        visible = [Path(name) for name in below if not name.startswith(".")]
        below[:] = [str(path) for path in natural_order(visible)]
        yield Path(folder), natural_order([Path(folder, name) for name in names if not name.startswith(".")])
