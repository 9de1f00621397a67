"""Folders that may not be there yet: may they be made, and is there room?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bcvlr_fast.errors import UserError

LOCK = "lock"
"""The file by which a run folder has one owner at a time."""


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
