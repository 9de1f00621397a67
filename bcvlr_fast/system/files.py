"""Folders: the cache, and such as may not be there yet: may they be made, and is there room?"""

from __future__ import annotations

import fcntl
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from bcvlr_fast.system.errors import UserError

NOT_NUMPY = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What np.load raises for a file that is missing, empty, cut off, damaged, or no array."""
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


def lock_folder(folder: Path) -> IO[str]:
    """Makes `folder` this process's own until the file that is returned is closed. Raises UserError where it is
    another's."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        raise UserError(f"out: {folder} is in use by process {file.read().strip() or 'unknown'}") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary file beside `file`, of the same suffix, which then takes its place."""
    part = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        write(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
