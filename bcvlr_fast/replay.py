"""The agent's own transitions: a ring of single frames for each environment."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.frames import FrameStore, WindowSampler

_NO_ACTION = -1


class Replay:
    """The newest frames of every environment, with the action that was taken on each.

    Environment n owns rows n * slots .. (n + 1) * slots - 1 of the store; a frame without an
    action is the last of its episode. `capacity` transitions in all, the oldest dropped first.
    """

    def __init__(self, capacity: int, num_envs: int, frame_shape: tuple[int, ...], device: torch.device) -> None:
        self.slots = -(-capacity // num_envs) + 1
        rows = num_envs * self.slots
        frames = torch.zeros(rows, *frame_shape, dtype=torch.uint8, device=device)
        self.store = FrameStore(frames, np.arange(rows, dtype=np.int64) * 2, device)
        self.action = np.full(rows, _NO_ACTION, np.int64)
        self._written = np.zeros(num_envs, np.int64)
        self._position = np.zeros(num_envs, np.int64)

    def append(self, envs: np.ndarray, frames: np.ndarray, actions: np.ndarray | None, ends: bool = False) -> None:
        """Adds one frame [k, C, H, W] to each environment of `envs` [k], with its action [k], or none.

        `ends` closes the episodes: the next frame of these environments starts another one.
        """
        rows = envs * self.slots + self._written[envs] % self.slots
        self.store.frames[torch.from_numpy(rows).to(self.store.device)] = torch.from_numpy(frames).to(self.store.device)
        self.action[rows] = _NO_ACTION if actions is None else actions
        self.store.position[rows] = self._position[envs]
        self._written[envs] += 1
        self._position[envs] += 2 if ends else 1

    def sampler(
        self, past: int, future: int, generator: torch.Generator, newest: int | None = None
    ) -> ReplaySampler | None:
        """Sampler over the windows (t - past .. t + future) that the ring holds now; None if there is none.

        `newest` restricts it to windows within the last so many frames of each environment.
        """
        sampler = WindowSampler(self.store, past, future, generator)
        rows = sampler.centres.cpu().numpy()
        # A row's neighbour in memory may belong to the next environment, or lie a whole ring later.
        same_ring = (rows - past) // self.slots == (rows + future) // self.slots
        kept = rows[same_ring & (self.action[rows] != _NO_ACTION)]
        if newest is not None:
            oldest = self._position[kept // self.slots] - newest
            kept = kept[self.store.position[kept - past] >= oldest]
        if len(kept) == 0:
            return None
        sampler.centres = torch.from_numpy(kept).to(self.store.device)
        return ReplaySampler(sampler, torch.from_numpy(self.action).to(self.store.device))


class ReplaySampler:
    """Windows of own transitions with the action a_t of their centre."""

    def __init__(self, windows: WindowSampler, action: Tensor) -> None:
        self.windows = windows
        self.action = action

    def draw(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """(centres [B] int64, actions [B] int64), drawn with replacement."""
        centres = self.windows.draw(batch_size)
        return centres, self.action[centres]
