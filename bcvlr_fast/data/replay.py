"""The agent's own transitions: a ring of single frames for each environment."""

from __future__ import annotations

import numpy as np
import torch

from bcvlr_fast.data.frames import FrameStore, WindowSampler, window_centres
from bcvlr_fast.envs.specs import EnvSpec


class Replay:
    """The newest frames of every environment, with the action that was taken on each.

    Environment n owns rows n * slots .. (n + 1) * slots - 1 of the store; a frame without an
    action is the last of its episode. `capacity` transitions in all, the oldest dropped first.
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
        """Adds one frame [k, C, H, W] to each environment of `envs` [k], with its action [k], or none.

        `ends` closes the episodes: the next frame of these environments starts another one.
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

    def rows_with_action(self, centres: np.ndarray, past: int, future: int, newest: int | None = None) -> np.ndarray:
        """Those of `centres` [W] whose windows, from as many frames of their episode as there are up to `past` before,
        lie in one ring and have an action, in the order given.

        `newest` restricts them to windows within the last so many frames of each environment.
        """
        # A row's neighbour in memory may belong to the next environment, or lie a whole ring later.
        position = self.store.position
        first = centres - np.minimum(past, self.store.age[centres])
        same_ring = first // self.slots == (centres + future) // self.slots
        whole = position[centres] - position[first] == centres - first
        fits = same_ring & whole & self.acted[centres]
        kept, first = centres[fits], first[fits]
        if newest is not None:
            oldest = self._position[kept // self.slots] - newest
            kept = kept[position[first] >= oldest]
        return kept


class ReplaySampler(WindowSampler):
    """Windows of own transitions, with the action a_t of their centre; as of the last `refresh`."""

    def __init__(self, replay: Replay, past: int, future: int, generator: torch.Generator, stack: int = 1) -> None:
        none = torch.zeros(len(replay.action), dtype=torch.int64, device=replay.store.device)
        super().__init__(replay.store, past, future, generator, none, stack)
        self.replay = replay
        self.action = torch.from_numpy(replay.action.copy()).to(replay.store.device)
        """[rows of the store, ...]."""

    def refresh(self, newest: int | None = None) -> bool:
        """Takes over what the ring holds now, `newest` as in `Replay.rows_with_action`; whether there is a window."""
        centres = window_centres(self.store.position, self.past, self.future)
        kept = self.replay.rows_with_action(centres, self.past + self.stack - 1, self.future, newest)
        self.centres[: len(kept)].copy_(torch.from_numpy(kept))
        self.action.copy_(torch.from_numpy(self.replay.action))
        if self.age is not None:
            self.age.copy_(torch.from_numpy(self.store.age))
        self.count.fill_(len(kept))
        return len(kept) > 0
