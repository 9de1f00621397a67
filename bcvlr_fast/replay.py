"""The agent's own transitions: a ring of single frames for each environment."""

from __future__ import annotations

import numpy as np
import torch

from bcvlr_fast.frames import FrameStore, WindowSampler, window_centres

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

    def rows_with_action(self, centres: np.ndarray, past: int, future: int, newest: int | None = None) -> np.ndarray:
        """Those of `centres` [W] whose windows lie in one ring and have an action, in the order given.

        `newest` restricts them to windows within the last so many frames of each environment.
        """
        # A row's neighbour in memory may belong to the next environment, or lie a whole ring later.
        same_ring = (centres - past) // self.slots == (centres + future) // self.slots
        kept = centres[same_ring & (self.action[centres] != _NO_ACTION)]
        if newest is not None:
            oldest = self._position[kept // self.slots] - newest
            kept = kept[self.store.position[kept - past] >= oldest]
        return kept


class ReplaySampler(WindowSampler):
    """Windows of own transitions, with the action a_t of their centre; as of the last `refresh`."""

    def __init__(self, replay: Replay, past: int, future: int, generator: torch.Generator) -> None:
        none = torch.zeros(len(replay.action), dtype=torch.int64, device=replay.store.device)
        super().__init__(replay.store, past, future, generator, none)
        self.replay = replay
        self.action = none.clone()
        """[rows of the store]."""

    def refresh(self, newest: int | None = None) -> bool:
        """Takes over what the ring holds now, `newest` as in `Replay.rows_with_action`; whether there is a window."""
        centres = window_centres(self.store.position, self.past, self.future)
        kept = self.replay.rows_with_action(centres, self.past, self.future, newest)
        self.centres[: len(kept)].copy_(torch.from_numpy(kept))
        self.action.copy_(torch.from_numpy(self.replay.action))
        self.count.fill_(len(kept))
        return len(kept) > 0
