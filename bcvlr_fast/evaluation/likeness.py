"""Warnings if the videos do not look like the environment."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.videos import Manifest

_SQUEEZED = 1.1
_ENLARGED = 0.5
_LEVELS = 4
_MIN_COMMON = 0.5


def size_warnings(manifest: Manifest) -> list[str]:
    """Warnings about the size that the frames had before they were resized."""
    _, height, width = manifest.frame_shape
    lines = []
    for old_height, old_width in manifest.source_sizes:
        ratio = (old_width / old_height) / (width / height)
        if max(ratio, 1 / ratio) > _SQUEEZED:
            lines.append(f"frames of {old_height} x {old_width} were squeezed to {height} x {width}")
        elif old_height < _ENLARGED * height:
            lines.append(f"frames of {old_height} x {old_width} were enlarged to {height} x {width}")
    return lines


def color_warnings(videos: np.ndarray, own: np.ndarray) -> list[str]:
    """Warnings about the colors of frames [n, C, H, W] uint8 of the videos and of the environment.

    The overlap of their color histograms is 70 % or more between an expert's and random frames of one Procgen game,
    and under 50 % in nine of ten pairs of games.
    """
    common = float(np.minimum(_histogram(videos), _histogram(own)).sum())
    if common >= _MIN_COMMON:
        return []
    return [f"only {common:.0%} of the videos' colors appear in the environment: are they from this environment?"]


def _histogram(frames: np.ndarray) -> np.ndarray:
    """[4 ** C] fractions of the colors, with four levels per channel."""
    coarse = (frames // (256 // _LEVELS)).astype(np.int64)
    index = np.zeros((len(frames), *frames.shape[2:]), np.int64)
    for channel in range(frames.shape[1]):
        index = index * _LEVELS + coarse[:, channel]
    return np.bincount(index.ravel(), minlength=_LEVELS ** frames.shape[1]) / index.size
