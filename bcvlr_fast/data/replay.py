"""The agent's own transitions: a ring of single frames for each environment."""

from __future__ import annotations

import numpy as np
import torch

from bcvlr_fast.config.window import Window
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.sampling import WindowSampler, window_centers
from bcvlr_fast.envs.specs import EnvSpec


class Replay:
    """The newest frames of every environment, each with the action taken on it.

    Environment n owns rows n * slots .. (n + 1) * slots - 1 of the store. The last frame of an episode has no action.
    It holds `capacity` transitions in all and drops the oldest first.
    """

    def __init__(self, capacity: int, num_envs: int, spec: EnvSpec, device: torch.device) -> None:
        self.slots = -(-capacity // num_envs) + 1
        rows = num_envs * self.slots
        frames = torch.zeros(rows, *spec.frame_shape, dtype=torch.uint8, device=device)
        self.store = FrameStore(frames, np.arange(rows, dtype=np.int64) * 2, device)
        self.action = spec.actions.empty(rows)
        self.acted = np.zeros(rows, bool)
        """[rows]: whether an action was taken on the frame."""
        self._written = np.zeros(num_envs, np.int64)
        self._age = np.zeros(num_envs, np.int64)
        self._position = np.zeros(num_envs, np.int64)

    def append(self, envs: np.ndarray, frames: np.ndarray, actions: np.ndarray | None, ends: bool = False) -> None:
        """Adds one frame [k, C, H, W] uint8 to each environment of `envs` [k], with its action [k, ...] or without one.

        `ends` closes the episodes: the next frame of these environments starts another.
        """
        rows = envs * self.slots + self._written[envs] % self.slots
        self.store.frames[torch.from_numpy(rows).to(self.store.device)] = torch.from_numpy(frames).to(self.store.device)
        self.acted[rows] = actions is not None
        if actions is not None:
            self.action[rows] = actions
        self.store.position[rows] = self._position[envs]
        self.store.age[rows] = np.minimum(self._age[envs], 255)
        self._written[envs] += 1
        self._position[envs] += 2 if ends else 1
        self._age[envs] = 0 if ends else self._age[envs] + 1

    def rows_with_action(self, centers: np.ndarray, window: Window, newest: int | None = None) -> np.ndarray:
        """The `centers` [W], in order, whose windows lie in one ring and have an action at t.

        A window may reach before the first frame of its episode, but not before frames that were overwritten. Windows
        must lie in the last `newest` frames of each environment, if given.
        """
        # A row's neighbor in memory may belong to the next environment, or lie a whole ring later.
        position = self.store.position
        first = centers - np.minimum(window.reach, self.store.age[centers])
        same_ring = first // self.slots == (centers + window.future) // self.slots
        whole = position[centers] - position[first] == centers - first
        fits = same_ring & whole & self.acted[centers]
        rows, first = centers[fits], first[fits]
        if newest is not None:
            oldest = self._position[rows // self.slots] - newest
            rows = rows[position[first] >= oldest]
        return rows


class ReplaySampler(WindowSampler):
    """Windows of own transitions with the action a_t of their center, as of the last `refresh`."""

    def __init__(self, replay: Replay, window: Window, generator: torch.Generator) -> None:
        none = torch.zeros(len(replay.action), dtype=torch.int64, device=replay.store.device)
        super().__init__(replay.store, window, generator, none)
        self.replay = replay
        self.action = torch.from_numpy(replay.action.copy()).to(replay.store.device)
        """[rows of the store, ...]."""

    def refresh(self, newest: int | None = None) -> bool:
        """Copies what the ring holds (`newest` as in `Replay.rows_with_action`); returns whether it has a window."""
        centers = window_centers(self.store.position, self.window.future)
        rows = self.replay.rows_with_action(centers, self.window, newest)
        self.centers[: len(rows)].copy_(torch.from_numpy(rows))
        self.action.copy_(torch.from_numpy(self.replay.action))
        if self.age is not None:
            self.age.copy_(torch.from_numpy(self.store.age))
        self.count.fill_(len(rows))
        return len(rows) > 0
