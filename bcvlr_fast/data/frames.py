"""FrameStore: stores every frame once, as uint8; stacks and windows of frames are indices into it."""

from __future__ import annotations

import mmap
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_DEVICE_FRACTION = 0.6
_HOST_FRACTION = 0.25
_MAX_AGE = 255


class FrameStore:
    """Single frames [N, C, H, W] uint8, each with its position in its episode; both videos and replay use it.

    `position` [N] int64 rises by one from a frame to the next of the same episode and jumps at every episode's end,
    so that no window crosses it. `age` [N] uint8 counts the earlier frames of the same episode, up to 255. `placement`
    is the location of the frames: device, pinned (host memory) or mapped (a file).
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
        """A store of `frames` [N, C, H, W] uint8, which may be a memory map of any size.

        `lengths` [E] are the frames of each episode, one after another. The frames go to the device if they fit there
        (within `budget_gb` if that is above 0), else to host memory (pinned for a GPU), else they stay in the map and
        are read as windows are drawn.
        """
        placed, placement = _place(frames, device, budget_gb)
        return cls(placed, episode_positions(np.asarray(lengths, np.int64)), device, placement)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(frames, index) for `kernels.random_shift`, both on the device.

        A store on the device is returned whole; from the host only the indexed frames are copied.
        """
        if self.frames.device == self.device:
            return self.frames, index
        picked = self.frames.index_select(0, index.reshape(-1).cpu())
        pinned = picked.pin_memory() if self.device.type == "cuda" else picked
        local = torch.arange(index.numel(), device=self.device).view(index.shape)
        return pinned.to(self.device, non_blocking=True), local


def episode_positions(lengths: np.ndarray) -> np.ndarray:
    """[sum(lengths)] int64 positions: consecutive within an episode, two apart between episodes."""
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(np.arange(len(lengths)), lengths)


def frame_ages(position: np.ndarray) -> np.ndarray:
    """[N] uint8: the number of earlier frames in each frame's episode, up to 255. `position` has whole episodes."""
    rows = np.arange(len(position))
    begins = np.ones(len(position), bool)
    begins[1:] = np.diff(position) != 1
    return np.minimum(rows - np.maximum.accumulate(np.where(begins, rows, 0)), _MAX_AGE).astype(np.uint8)


def _place(frames: np.ndarray, device: torch.device, budget_gb: float) -> tuple[Tensor, str]:
    on_gpu = device.type == "cuda"
    fits_host = frames.nbytes < _HOST_FRACTION * available_memory()
    fits_device = frames.nbytes < _DEVICE_FRACTION * torch.cuda.mem_get_info(device)[0] if on_gpu else fits_host
    if fits_device and (budget_gb <= 0 or frames.nbytes <= budget_gb * 1e9):
        return _copy_in_blocks(frames, torch.empty(frames.shape, dtype=torch.uint8, device=device)), "device"
    if on_gpu and fits_host:
        return _copy_in_blocks(frames, torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)), "pinned"
    if isinstance(frames, np.memmap):  # read-ahead around scattered frames costs twenty times the frames themselves
        frames._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
    return _shared(frames), "mapped"


def _shared(frames: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory, which may be a read-only map and is only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(frames)


def _copy_in_blocks(source: np.ndarray, target: Tensor, block: int = 16_384) -> Tensor:
    for start in range(0, len(source), block):
        target[start : start + block].copy_(_shared(source[start : start + block]))
    return target


def available_memory() -> int:
    """Bytes of host memory that this process can still use within its control group's limit."""
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
