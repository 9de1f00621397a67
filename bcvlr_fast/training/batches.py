"""Batches: the windows that a stage's updates draw, with their frames on the device, wherever the store lies."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.data.frames import WindowSampler
from bcvlr_fast.system.host import usable_cores

Key = tuple[int, ...]
"""Non-negative numbers that name a step of a run."""

_MOST_THREADS = 8


class Batches:
    """Windows for the updates of a step, `together` of them at most.

    After `draw(count)`, rows [count, B] int64 tells which windows of the sampler they are, and index [count, F, B]
    int64 where in `frames` [N, C, H, W] uint8 their frames lie, oldest first: those of the whole window, or of the
    observations o_t .. o_{t + last} alone where `last` is given. An observation is `stack` frames of them.

    From a store on the device, windows are drawn there by the sampler's generator. From any other they are a function
    of the generator's seed and the step's key, so that the next step's frames can be gathered meanwhile.
    """

    rows: Tensor
    frames: Tensor
    index: Tensor

    def __init__(self, sampler: WindowSampler, batch_size: int, together: int, *, last: int | None = None) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self._reach = (-sampler.past, sampler.future) if last is None else (0, last)
        self._stream = None
        if sampler.store.placement != "device":
            self._stream = FrameStream(sampler, self._reach, together, batch_size)

    def observation(self, number: int, step: int = 0) -> Tensor:
        """[B, stack] int64: where the frames of o_{t + step} lie, for update `number` of those drawn."""
        first = step - self._reach[0]
        return self.index[number, first : first + self.sampler.stack].T

    def fetch(self, key: Key, following: Key | None) -> None:
        """The host's part: brings the frames of step `key`, and begins to gather those of `following`, if any."""
        if self._stream is not None:
            seed = self.sampler.generator.initial_seed()
            self._stream.fetch((seed, *key), following and (seed, *following))

    def draw(self, count: int) -> None:
        """The device's part, which a graph may hold."""
        if self._stream is None:
            self.rows = self.sampler.draw_rows((count, self.batch_size))
            self.frames = self.sampler.store.frames
            self.index = self.sampler.rows_of(self.sampler.centres[self.rows], *self._reach)
        else:
            stream = self._stream
            self.rows, self.frames, self.index = stream.rows[:count], stream.frames, stream.index[:count]


class FrameStream:
    """Frames from the host for one step after another: while a step computes, a thread gathers the next one's.

    On a GPU they pass through pinned memory and a landing buffer, by a stream of their own; `frames` and `rows` keep
    their addresses, so that a graph can read them. On a CPU two buffers take turns.
    """

    def __init__(self, sampler: WindowSampler, reach: tuple[int, int], together: int, batch: int) -> None:
        """For steps of `together` updates of `batch` windows, with the observations that `reach` names."""
        store, (first, last) = sampler.store, reach
        self._device = store.device
        self._store, self._age = store.frames.numpy(), store.age
        self._centres = sampler.centres.cpu().numpy()
        self._steps = np.arange(first - sampler.stack + 1, last + 1)
        length = len(self._steps)
        self._shape = (together, length, batch)
        self.index = torch.arange(together * length * batch, device=self._device).view(self._shape)
        self._on_gpu = self._device.type == "cuda"
        self._hosts = [self._buffers(torch.device("cpu")) for _ in range(2)]
        self._turn = 0
        self.frames, self.rows = self._hosts[0]
        if self._on_gpu:
            self.frames, self.rows = self._buffers(self._device)
            self._landing = self._buffers(self._device)
            self._copies = torch.cuda.Stream(self._device)
            self._landed, self._taken = torch.cuda.Event(), torch.cuda.Event()
        self._director = ThreadPoolExecutor(1, "frames")
        self._gatherers = ThreadPoolExecutor(min(_MOST_THREADS, usable_cores()), "gather") if self._on_gpu else None
        self._coming: tuple[Key, Future[int]] | None = None

    def fetch(self, key: Key, following: Key | None) -> None:
        """Puts the frames of step `key` into `frames`; those of `following`, if any, are gathered from now on."""
        if self._coming is None or self._coming[0] != key:
            if self._coming is not None:
                self._coming[1].result()
            self._coming = key, self._director.submit(self._gather, key, self._turn)
        turn = self._coming[1].result()
        if self._on_gpu:
            compute = torch.cuda.current_stream(self._device)
            compute.wait_event(self._landed)
            for target, source in zip((self.frames, self.rows), self._landing, strict=True):
                target.copy_(source)
            self._taken.record(compute)
        else:
            self.frames, self.rows = self._hosts[turn]
        self._turn = 1 - turn
        self._coming = None
        if following is not None:
            self._coming = following, self._director.submit(self._gather, following, self._turn)

    def _buffers(self, device: torch.device) -> tuple[Tensor, Tensor]:
        together, length, batch = self._shape
        pinned = self._on_gpu and device.type == "cpu"
        size = (together * length * batch, *self._store.shape[1:])
        frames = torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pinned)
        return frames, torch.empty((together, batch), dtype=torch.int64, device=device, pin_memory=pinned)

    def _gather(self, key: Key, turn: int) -> int:
        """In the thread: frames and rows of a step into host buffer `turn`, and on their way to the device."""
        together, _, batch = self._shape
        frames, rows = self._hosts[turn]
        if self._on_gpu:
            self._landed.synchronize()  # what this buffer held has left it
        drawn = np.random.default_rng(key).integers(len(self._centres), size=(together, batch))
        rows.copy_(torch.from_numpy(drawn))
        centres = self._centres[drawn][:, None]  # [together, 1, B]
        steps = np.maximum(self._steps[:, None], -self._age[centres].astype(np.int64))
        self._copy((centres + steps).reshape(-1), frames.numpy())
        if self._on_gpu:
            with torch.cuda.stream(self._copies):
                self._copies.wait_event(self._taken)
                for target, source in zip(self._landing, (frames, rows), strict=True):
                    target.copy_(source, non_blocking=True)
                    target.record_stream(self._copies)
                self._landed.record(self._copies)
        return turn

    def _copy(self, index: np.ndarray, out: np.ndarray) -> None:
        if self._gatherers is None:
            np.take(self._store, index, axis=0, out=out, mode="clip")
            return
        parts = np.array_split(np.arange(len(index)), 4 * _MOST_THREADS)
        jobs = [
            self._gatherers.submit(np.take, self._store, index[p[0] : p[-1] + 1], 0, out[p[0] : p[-1] + 1], "clip")
            for p in parts
            if len(p)
        ]
        for job in jobs:
            job.result()
