"""Windows of a frame store: their positions, and how they are drawn."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.config.window import Window
from bcvlr_fast.data.frames import FrameStore

_DRAW_BELOW = 1 << 62
"""Rows are random integers below this modulo the count: uniform to one part in 2^40 for any count."""


class WindowSampler:
    """Draws windows of a store uniformly, with a generator on the device.

    Before the first frame of an episode that frame repeats, so that what the agent sees first is learned, too. Only the
    first `count` of `centers` are drawn; both are tensors on the device that may be refilled.
    """

    def __init__(
        self, store: FrameStore, window: Window, generator: torch.Generator, centers: Tensor | None = None
    ) -> None:
        """`centers` [W] int64 on the device: the steps t that may be drawn; by default every window of the store."""
        self.store, self.window, self.generator = store, window, generator
        if centers is None:
            centers = torch.from_numpy(window_centers(store.position, window.future)).to(store.device)
        self.centers = centers
        self.count = torch.tensor(len(centers), device=store.device)
        self.age = torch.from_numpy(store.age.copy()).to(store.device) if window.reach else None
        """[N] uint8 copy of the store's ages."""

    def draw_rows(self, shape: tuple[int, ...]) -> Tensor:
        """`shape` int64: rows of `centers`, drawn with replacement."""
        drawn = torch.randint(_DRAW_BELOW, shape, generator=self.generator, device=self.store.device)
        return drawn % self.count

    def draw_shifts(self, count: int, pad: int) -> Tensor:
        """[count, 2] int64 from 0 to 2 * pad: offsets for `kernels.random_shift`."""
        return torch.randint(2 * pad + 1, (count, 2), generator=self.generator, device=self.store.device)

    def draw_chances(self, count: int, probability: float) -> Tensor:
        """[count, 1] bool, each true with the given probability."""
        return torch.rand(count, 1, generator=self.generator, device=self.store.device) < probability

    def take(self, centers: Tensor) -> tuple[Tensor, Tensor]:
        """(frames, index [window.frames, B] int64) of the windows at `centers` [B]; see `FrameStore.take`."""
        return self.store.take(self.rows_of(centers, -self.window.past, self.window.future))

    def rows_of(self, centers: Tensor, first: int, last: int) -> Tensor:
        """[..., stack + last - first, B] int64: the frames of the observations t + first .. t + last, oldest first, for
        `centers` [..., B]."""
        steps = torch.arange(first - self.window.stack + 1, last + 1, device=self.store.device)[:, None]
        if self.age is not None:
            steps = torch.maximum(steps, -self.age[centers].long()[..., None, :])
        return centers[..., None, :] + steps

    def observations(self, centers: Tensor) -> Tensor:
        """[B, stack * C, H, W] uint8 on the device: what a policy would see at `centers` [B]."""
        frames, index = self.store.take(self.rows_of(centers, 0, 0))
        return frames[index.T].flatten(1, 2)


def without_excess_still(
    frames: np.ndarray, centers: np.ndarray, max_fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """`centers` [W] int64, ascending, with near-static windows dropped until they are at most `max_fraction` of them.

    A window is near-static where `frames` [N, C, H, W] uint8 change less from its center to the next frame than on
    average. The remaining ones are drawn with `rng`.
    """
    change = _changes(frames.reshape(len(frames), -1), centers)
    still = change < change.mean()
    limit = round((~still).sum() * max_fraction / (1 - max_fraction)) if max_fraction < 1 else len(centers)
    if still.sum() <= limit:
        return centers
    chosen = rng.choice(np.flatnonzero(still), limit, replace=False)
    return centers[np.sort(np.concatenate([np.flatnonzero(~still), chosen]))]


@numba.njit(cache=True)
def window_centers(position: np.ndarray, future: int) -> np.ndarray:
    """[W] int64: the steps t whose followers up to t + future are consecutive in `position` [N]."""
    count = 0
    centers = np.empty(len(position), np.int64)
    run = 0  # frames of this episode up to and including `last`
    for last in range(len(position)):
        run = run + 1 if last > 0 and position[last] == position[last - 1] + 1 else 1
        if run > future:
            centers[count] = last - future
            count += 1
    return centers[:count].copy()


@numba.njit(cache=True)
def _changes(frames: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """[W] float64: the summed absolute change of the flat frames [N, P] from each center to the next frame."""
    change = np.zeros(len(centers))
    for i in range(len(centers)):
        now, following = frames[centers[i]], frames[centers[i] + 1]
        for j in range(len(now)):
            change[i] += abs(np.int32(now[j]) - np.int32(following[j]))
    return change
