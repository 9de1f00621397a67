"""Cache directory, writability checks, locks and atomic writes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from bcvlr_fast.system.errors import UserError

NOT_NUMPY = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Exceptions of np.load for a file that is missing, empty, truncated, damaged, or not an array."""
LOCK = "lock"
"""Name of the lock file that gives a run folder one owner at a time."""


def cache_folder() -> Path:
    """Folder for recorded datasets and downloads: $BCVLR_FAST_CACHE, else one in the user's cache directory."""
    if folder := os.environ.get("BCVLR_FAST_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bcvlr_fast"


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def check_writable(folder: Path, name: str) -> None:
    """Raises UserError, starting with the field `name`, if the folder cannot be created or written."""
    existing = _existing(folder)
    if not existing.is_dir():
        raise UserError(f"{name}: {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{name}: {folder}: {existing} may not be written")


def _existing(folder: Path) -> Path:
    """The folder itself, or its nearest existing parent."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def lock_folder(folder: Path) -> IO[str]:
    """Creates and locks `folder` for this process until the returned file is closed.

    Raises UserError if another process holds the lock.
    """
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
    """Writes `file` atomically: calls `write` with a temporary path of the same suffix, then renames it."""
    part = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        write(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
