"""Folders: the cache, and such as may not be there yet: may they be made, and is there room?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bcvlr_fast.errors import UserError

LOCK = "lock"
"""The file by which a run folder has one owner at a time."""


def cache_folder() -> Path:
    """Where recorded datasets and downloads are kept: $BCVLR_FAST_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("BCVLR_FAST_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bcvlr_fast"


def free_bytes(folder: Path) -> int:
    """Bytes free where the folder is, or would be."""
    return shutil.disk_usage(_existing(folder)).free


def check_writable(folder: Path, name: str) -> None:
    """Raises UserError, beginning with `name`, where the folder cannot be made or written."""
    at = _existing(folder)
    if not at.is_dir():
        raise UserError(f"{name}: {folder}: {at} is not a folder")
    if not os.access(at, os.W_OK | os.X_OK):
        raise UserError(f"{name}: {folder}: {at} may not be written")


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest of its parents that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def write_whole(file: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary file beside `file`, of the same suffix, which then takes its place."""
    part = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        write(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
