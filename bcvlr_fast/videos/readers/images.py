"""Reads a folder of images as one episode, in natural order of the file names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bcvlr_fast.videos.readers.chunks import CHUNK_BYTES, Chunk, Part, Reader, Unreadable, check_side

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


def read(part: Part) -> Reader:
    """Yields the images of one folder, which may differ in size. Raises Unreadable if one is damaged."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    frames: list[np.ndarray] = []
    first = True
    for file in images_in(part.path):
        try:
            with Image.open(file) as image:
                check_side(image.height, image.width, file.name, part.limits)
                if image.mode.startswith(("I", "F")):
                    raise Unreadable(f"{file.name}: expected 8 bits a channel, got mode {image.mode}")
                frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
            raise Unreadable(f"{file.name}: not an image ({error})") from None
        if frames and (frame.shape != frames[0].shape or len(frames) * frame.nbytes >= CHUNK_BYTES):
            yield _chunk(frames, first)
            frames, first = [], False
        frames.append(frame)
    if frames:
        yield _chunk(frames, first)


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder in natural order: frame2.png before frame10.png."""
    return natural_order([file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES])


def natural_order(paths: list[Path]) -> list[Path]:
    """Sorts paths by name, comparing numbers in names by value."""
    return sorted(paths, key=lambda path: [(t.isdigit(), int(t) if t.isdigit() else t) for t in _tokens(path)])


def _tokens(path: Path) -> list[str]:
    return [token for token in re.split(r"(\d+)", str(path)) if token]


def _chunk(frames: list[np.ndarray], first: bool) -> Chunk:
    starts = np.zeros(len(frames), bool)
    starts[0] = first
    return Chunk(np.stack(frames), starts)
