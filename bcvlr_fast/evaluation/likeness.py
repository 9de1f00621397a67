"""Do the videos look like the environment? Lines for the health report where they do not."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.videos import Manifest

_SQUEEZED = 1.1
_ENLARGED = 0.5
_LEVELS = 4
_LEAST_COMMON = 0.5


def size_complaints(manifest: Manifest) -> list[str]:
    """From the sizes that the frames had before they were resized."""
    _, height, width = manifest.frame_shape
    lines = []
    for old_height, old_width in manifest.source_sizes:
        ratio = (old_width / old_height) / (width / height)
        if max(ratio, 1 / ratio) > _SQUEEZED:
            lines.append(f"frames of {old_height} x {old_width} were squeezed to {height} x {width}")
        elif old_height < _ENLARGED * height:
            lines.append(f"frames of {old_height} x {old_width} were enlarged to {height} x {width}")
    return lines


def colour_complaints(videos: np.ndarray, own: np.ndarray) -> list[str]:
    """From the colours of frames [n, C, H, W] uint8 of the videos and of the environment.

    What their colour histograms have in common is 70 % or more between an expert's and random frames of one Procgen
    game, and under 50 % in nine of ten pairs of games.
    """
    common = float(np.minimum(_histogram(videos), _histogram(own)).sum())
    if common >= _LEAST_COMMON:
        return []
    return [f"only {common:.0%} of the videos' colours are the environment's: are they of this environment?"]


def _histogram(frames: np.ndarray) -> np.ndarray:
    """[4 ** C] shares of the colours, four levels a channel."""
    coarse = (frames // (256 // _LEVELS)).astype(np.int64)
    index = np.zeros((len(frames), *frames.shape[2:]), np.int64)
    for channel in range(frames.shape[1]):
        index = index * _LEVELS + coarse[:, channel]
    return np.bincount(index.ravel(), minlength=_LEVELS ** frames.shape[1]) / index.size
