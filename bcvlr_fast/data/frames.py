"""FrameStore: every frame once, as uint8; windows of frames are indices into it."""

from __future__ import annotations

import mmap
import os
import warnings
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

_DEVICE_SHARE = 0.6
_HOST_SHARE = 0.25
_MOST_AGE = 255
_MANY = 1 << 62
"""Random integers are drawn below this and divided: the remainder is uniform to one part in 2^40 for any count."""


class FrameStore:
    """Single frames [N, C, H, W] uint8, with the position of each in its episode.

    `position` [N] int64 rises by one from a frame to the next of the same episode and jumps
    otherwise, so that no window crosses an episode's end; `age` [N] uint8 counts the frames before it in its episode,
    255 at most. Videos and replay are both of this class.
    `placement` says where the frames lie: device, pinned (host memory) or mapped (a file).
    """

    def __init__(self, frames: Tensor, position: np.ndarray, device: torch.device, placement: str = "device") -> None:
        if frames.dtype != torch.uint8 or frames.ndim != 4 or len(frames) != len(position):
            raise ValueError(
                f"frames: expected uint8 [{len(position)}, C, H, W], got {frames.dtype} {list(frames.shape)}"
            )
        self.frames = frames
        self.position = position
        self.age = frame_ages(position)
        self.device = device
        self.placement = placement

    @classmethod
    def from_episodes(
        cls, frames: np.ndarray, lengths: np.ndarray, device: torch.device, budget_gb: float = 0.0
    ) -> FrameStore:
        """Store over `frames` [N, C, H, W] uint8, which may be a memory map of any size.

        `lengths` [E] frames of each episode, one after another. Placed on the device if it fits
        there, in `budget_gb` if that is above 0, else in (pinned) host memory, else left in the map
        and read as windows are drawn.
        """
        placed, placement = _place(frames, device, budget_gb)
        return cls(placed, episode_positions(np.asarray(lengths, np.int64)), device, placement)

    def windows(self, past: int, future: int) -> Tensor:
        """[W] int64 on the device: every frame with `past` frames before and `future` after it in its episode."""
        return torch.from_numpy(window_centres(self.position, past, future)).to(self.device)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(frames, index) for `kernels.random_shift`, both on the device.

        A store on the device is handed over whole; from the host only the indexed frames travel.
        """
        if self.frames.device == self.device:
            return self.frames, index
        picked = self.frames.index_select(0, index.reshape(-1).cpu())
        pinned = picked.pin_memory() if self.device.type == "cuda" else picked
        local = torch.arange(index.numel(), device=self.device).view(index.shape)
        return pinned.to(self.device, non_blocking=True), local


class WindowSampler:
    """Windows (t - past .. t + future) of a store, drawn uniformly with a generator on the device.

    An observation is a stack of `stack` frames, so `stack - 1` more come before those of a window; before an episode's
    first frame there is nothing but that frame again. Only the first `count` of `centres` are drawn; both are tensors
    on the device, which may be refilled.
    """

    def __init__(
        self,
        store: FrameStore,
        past: int,
        future: int,
        generator: torch.Generator,
        centres: Tensor | None = None,
        stack: int = 1,
    ) -> None:
        """`centres` [W] int64 on the device: where the windows are to be; all that the store has, if not given."""
        self.store = store
        self.generator = generator
        self.past, self.future, self.stack = past, future, stack
        self.centres = store.windows(past, future) if centres is None else centres
        self.count = torch.tensor(len(self.centres), device=store.device)
        self.age = torch.from_numpy(store.age.copy()).to(store.device) if stack > 1 else None
        """[N] uint8, as the store's."""

    def draw_rows(self, shape: tuple[int, ...]) -> Tensor:
        """`shape` int64: rows of `centres`, drawn with replacement."""
        drawn = torch.randint(_MANY, shape, generator=self.generator, device=self.store.device)
        return drawn % self.count

    def draw_shifts(self, count: int, pad: int) -> Tensor:
        """[count, 2] int64 from 0 to 2 * pad: offsets for `kernels.random_shift`."""
        return torch.randint(2 * pad + 1, (count, 2), generator=self.generator, device=self.store.device)

    def draw_chances(self, count: int, share: float) -> Tensor:
        """[count, 1] bool, each true by the chance `share`."""
        return torch.rand(count, 1, generator=self.generator, device=self.store.device) < share

    def take(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """(frames, index [stack + past + future, B] int64) of the windows at `centres` [B], as `FrameStore.take`."""
        return self.store.take(self.rows_of(centres, -self.past, self.future))

    def rows_of(self, centres: Tensor, first: int, last: int) -> Tensor:
        """[..., stack + last - first, B] int64: the frames of the observations t + first .. t + last, oldest first, for
        `centres` [..., B]."""
        steps = torch.arange(first - self.stack + 1, last + 1, device=self.store.device)[:, None]
        if self.age is not None:
            steps = torch.maximum(steps, -self.age[centres].long()[..., None, :])
        return centres[..., None, :] + steps

    def observations(self, centres: Tensor) -> Tensor:
        """[B, stack * C, H, W] uint8 on the device: what a policy would see at `centres` [B]."""
        frames, index = self.store.take(self.rows_of(centres, 0, 0))
        return frames[index.T].flatten(1, 2)


def episode_positions(lengths: np.ndarray) -> np.ndarray:
    """[sum(lengths)] int64: consecutive within an episode, two apart between episodes."""
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(np.arange(len(lengths)), lengths)


def frame_ages(position: np.ndarray) -> np.ndarray:
    """[N] uint8: the frames before each in its episode, 255 at most, where episodes lie whole in `position`."""
    rows = np.arange(len(position))
    begins = np.ones(len(position), bool)
    begins[1:] = np.diff(position) != 1
    return np.minimum(rows - np.maximum.accumulate(np.where(begins, rows, 0)), _MOST_AGE).astype(np.uint8)


@numba.njit(cache=True)
def window_centres(position: np.ndarray, past: int, future: int) -> np.ndarray:
    """[W] int64: indices t whose neighbours t - past .. t + future are consecutive in `position`."""
    count = 0
    centres = np.empty(len(position), np.int64)
    run = 0  # frames of this episode up to and with `last`
    for last in range(len(position)):
        run = run + 1 if last > 0 and position[last] == position[last - 1] + 1 else 1
        if run > past + future:
            centres[count] = last - future
            count += 1
    return centres[:count].copy()


def with_fewer_still(frames: np.ndarray, centres: np.ndarray, most: float, rng: np.random.Generator) -> np.ndarray:
    """Those of `centres` [W] int64, ascending, of which at most the share `most` is still.

    A window is still where `frames` [N, C, H, W] uint8 change less from its centre to the next than on average; of
    these, those to keep are drawn.
    """
    change = _changes(frames.reshape(len(frames), -1), centres)
    still = change < change.mean()
    keep = round((~still).sum() * most / (1 - most)) if most < 1 else len(centres)
    if still.sum() <= keep:
        return centres
    kept = rng.choice(np.flatnonzero(still), keep, replace=False)
    return centres[np.sort(np.concatenate([np.flatnonzero(~still), kept]))]


@numba.njit(cache=True)
def _changes(frames: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """[W] float64: the sum of what each value of the flat frames [N, P] changes by, from a centre to the next frame."""
    change = np.zeros(len(centres))
    for i in range(len(centres)):
        now, following = frames[centres[i]], frames[centres[i] + 1]
        for j in range(len(now)):
            change[i] += abs(np.int32(now[j]) - np.int32(following[j]))
    return change


def _place(frames: np.ndarray, device: torch.device, budget_gb: float) -> tuple[Tensor, str]:
    on_gpu = device.type == "cuda"
    fits_host = frames.nbytes < _HOST_SHARE * available_memory()
    fits_device = frames.nbytes < _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0] if on_gpu else fits_host
    if fits_device and (budget_gb <= 0 or frames.nbytes <= budget_gb * 1e9):
        return _copy_in_blocks(frames, torch.empty(frames.shape, dtype=torch.uint8, device=device)), "device"
    if on_gpu and fits_host:
        return _copy_in_blocks(frames, torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)), "pinned"
    if isinstance(frames, np.memmap):  # reading ahead of scattered frames costs twenty times what they do
        frames._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
    return _shared(frames), "mapped"


def _shared(frames: np.ndarray) -> Tensor:
    """A tensor over the array's own memory, which may be a read-only map: it is only ever read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(frames)


def _copy_in_blocks(source: np.ndarray, target: Tensor, block: int = 16_384) -> Tensor:
    for start in range(0, len(source), block):
        target[start : start + block].copy_(_shared(source[start : start + block]))
    return target


def available_memory() -> int:
    """Bytes of host memory that this process could still use, within its control group's limit."""
    free = _host_memory()
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        return free if limit == "max" else max(0, min(free, int(limit) - used))
    except (OSError, ValueError):
        return free


def _host_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
