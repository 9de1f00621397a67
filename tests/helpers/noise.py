"""Datasets of noise."""

from pathlib import Path

import numpy as np

from bcvlr_fast.videos import DatasetWriter, Manifest

SHAPE = (3, 64, 64)


def noise(folder: Path, env: str, lengths: list[int]) -> Path:
    """Writes a dataset of random pixels, without labels, and returns its folder."""
    writer = DatasetWriter(folder, SHAPE)
    rng = np.random.default_rng(len(env))
    writer.append(rng.integers(0, 256, (sum(lengths), *SHAPE), dtype=np.uint8))
    writer.commit(Manifest(env, "test", lengths, list(SHAPE)))
    return folder
