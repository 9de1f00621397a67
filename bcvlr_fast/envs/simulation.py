"""The interface of MuJoCo physics in one process, which `envs.simulated` turns into a `PixelEnv`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

ACTION_REPEAT = 2
"""Simulator steps per agent step."""
SIDE = 64
"""Height and width of a frame in pixels."""


class Outcome(NamedTuple):
    """Result of one agent step, for the k environments stepped."""

    reward: np.ndarray
    """[k] float64, summed over the action's repeats."""
    ended: np.ndarray
    """[k] bool."""
    success: np.ndarray
    """[k] bool: success in at least one of the repeats; False in suites without success."""


class Simulation(Protocol):
    """Some environments of one task, numbered from 0, each seeded on its own."""

    def reset(self, ids: np.ndarray) -> np.ndarray:
        """Starts new episodes in the environments `ids` [k] and returns states [k, S] float32."""

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """Applies actions [k, A] in -1..1 and returns (states [k, S] float32, outcome)."""

    def render(self, ids: np.ndarray) -> np.ndarray:
        """Draws the environments `ids` [k] as frames [k, 3, 64, 64] uint8."""

    def close(self) -> None: ...
