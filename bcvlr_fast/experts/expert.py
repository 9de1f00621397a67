"""The interface of experts: episodes to record, whether replayed or played anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from bcvlr_fast.envs.specs import Rendering

WEIGHTS_SUFFIX = ".safetensors"
"""Of a file of an expert's weights."""


class ExpertEpisode(NamedTuple):
    """One recorded episode of T steps."""

    frames: np.ndarray
    """[T + 1, C, H, W] uint8."""
    actions: np.ndarray
    """[T] uint8 discrete actions, or [T, A] float32 in -1..1."""
    score: float
    """Score of the whole episode, also if only its first steps were recorded."""
    level: int
    """Procgen's level; NO_LEVEL in other suites."""


class Expert(Protocol):
    """An expert of one environment."""

    @property
    def env(self) -> str:
        """Name of the environment, suite:task."""

    @property
    def name(self) -> str:
        """Tells the expert's recordings apart from those of other experts of the environment."""

    @property
    def source(self) -> str:
        """Kind of expert, for the manifests of its recordings."""

    @property
    def total_frames(self) -> int | None:
        """Frames of all its episodes; None if it plays any number of them."""

    @property
    def extends(self) -> bool:
        """Whether a recording of fewer frames is the beginning of one of more."""

    def episodes(self, frames: int, steps: int, rendering: Rendering) -> Iterator[ExpertEpisode]:
        """Plays episodes until they have at least `frames` frames, or all that there are.

        `steps` > 0 records only the first `steps` steps of each episode. `rendering` is how MuJoCo draws.
        """
