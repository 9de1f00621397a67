"""Registry of video readers: a new format is one module in this folder and one entry below.

Each module has `read(part: Part) -> Reader`, which yields the frames of one file or folder in chunks. Workers import
it by its name, `Part.reader`.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

from bcvlr_fast.videos.readers import arrays, hdf5, images, lerobot, video_files
from bcvlr_fast.videos.readers.chunks import Part, Reader

_FILES = {suffix: reader for reader in (arrays, hdf5, video_files) for suffix in reader.SUFFIXES}
"""Readers of one file, by its lowercase suffix."""
_UNKNOWN_FILE = video_files
"""Reader of a file that is named explicitly and has another suffix."""
_FOLDERS = (images,)
"""Readers of the loose files of one folder: `SUFFIXES` of the files that belong to it."""
_DATASETS = (lerobot,)
"""Readers of folders with a layout of their own: `is_dataset(folder)`, and `parts(root)` lists what to read."""

SUFFIXES = (*_FILES, *(suffix for reader in _FOLDERS for suffix in reader.SUFFIXES))


def read(part: Part) -> Reader:
    """Yields the frames of a part. Raises Unreadable if it is damaged or of another format."""
    module = importlib.import_module(f"{__name__}.{part.reader}")
    reader: Reader = module.read(part)
    return reader


def dataset_parts(root: Part) -> list[Part] | None:
    """Parts of a dataset folder that is read as a whole; None if `root` is not one."""
    for reader in _DATASETS:
        if reader.is_dataset(root.path):
            return reader.parts(replace(root, reader=_name(reader.__name__)))
    return None


def file_part(root: Part) -> Part:
    """The part of a file that the user named."""
    return replace(root, reader=_name(_FILES.get(root.path.suffix.lower(), _UNKNOWN_FILE).__name__))


def folder_parts(root: Part, folder: Path, files: list[Path]) -> list[Part]:
    """Parts of one folder with these files: the folder itself if it holds loose frames, then each known file."""
    suffixes = [file.suffix.lower() for file in files]
    parts = [
        replace(root, path=folder, reader=_name(reader.__name__))
        for reader in _FOLDERS
        if any(suffix in reader.SUFFIXES for suffix in suffixes)
    ]
    return parts + [
        replace(root, path=file, reader=_name(_FILES[suffix].__name__))
        for file, suffix in zip(files, suffixes, strict=True)
        if suffix in _FILES
    ]


def _name(module: str) -> str:
    return module.rpartition(".")[2]
