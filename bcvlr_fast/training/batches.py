"""Batches: the windows that updates draw, with their frames on the device wherever the store is."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.training.compute import Compute

Key = tuple[int, ...]
"""Non-negative numbers that identify a step of a run."""

_MAX_THREADS = 8


class Batches:
    """The windows of up to `together` updates, which make one step.

    After `draw(count)`, rows [count, B] int64 are the drawn windows of the sampler, and index [count, F, B] int64 the
    places of their frames in `frames` [N, C, H, W] uint8, oldest first: the frames of the whole window, or only of the
    observations o_t .. o_{t + last} where `last` is given.

    From a store on the device, the sampler's generator draws the windows there. From any other store, they are a
    function of the generator's seed and the step's key, so that a thread can gather the next step's frames ahead.
    """

    rows: Tensor
    frames: Tensor
    index: Tensor

    def __init__(self, sampler: WindowSampler, batch_size: int, together: int, *, last: int | None = None) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self._reach = (-sampler.window.past, sampler.window.future) if last is None else (0, last)
        self._stream = None
        if sampler.store.placement != "device":
            self._stream = FrameStream(sampler, self._reach, together, batch_size)

    def observation(self, number: int, step: int = 0) -> Tensor:
        """[B, stack] int64: the places of the frames of o_{t + step}, for update `number` of the step."""
        first = step - self._reach[0]
        return self.index[number, first : first + self.sampler.window.stack].T

    def pixels(self, number: int, compute: Compute, *, shift_pad: int = 0, stack_dropout: float = 0.0) -> Tensor:
        """o_t of update `number`, normalized, [B, stack * C, H, W] in the compute's dtype and memory format.

        Observations are shifted at random by up to `shift_pad` pixels; in the fraction `stack_dropout` of the stacks
        the newest frame replaces the earlier ones.
        """
        sampler, index = self.sampler, self.observation(number)
        offset = sampler.draw_shifts(len(index), shift_pad) if shift_pad else None
        if stack_dropout:
            index = torch.where(sampler.draw_chances(len(index), stack_dropout), index[:, -1:], index)
        return random_shift(
            self.frames,
            index,
            offset,
            pad=shift_pad,
            dtype=compute.dtype,
            memory_format=compute.memory_format,
        )

    def fetch(self, key: Key, following: Key | None) -> None:
        """The part on the host: provides the frames of step `key`; starts to gather those of `following`, if any."""
        if self._stream is not None:
            seed = self.sampler.generator.initial_seed()
            self._stream.fetch((seed, *key), following and (seed, *following))

    def draw(self, count: int) -> None:
        """The part on the device, which a graph can capture."""
        if self._stream is None:
            self.rows = self.sampler.draw_rows((count, self.batch_size))
            self.frames = self.sampler.store.frames
            self.index = self.sampler.rows_of(self.sampler.centers[self.rows], *self._reach)
        else:
            stream = self._stream
            self.rows, self.frames, self.index = stream.rows[:count], stream.frames, stream.index[:count]


class FrameStream:
    """Streams frames from the host: while a step computes, a thread gathers the frames of the next one.

    On a GPU they pass through pinned memory and a landing buffer on a separate CUDA stream; `frames` and `rows` keep
    their addresses, so that a graph can read them. On a CPU two buffers alternate.
    """

    def __init__(self, sampler: WindowSampler, reach: tuple[int, int], together: int, batch: int) -> None:
        """For steps of `together` updates of `batch` windows, each from o_{t + reach[0]} to o_{t + reach[1]}."""
        store, (first, last) = sampler.store, reach
        self._device = store.device
        self._store, self._age = store.frames.numpy(), store.age
        self._centers = sampler.centers.cpu().numpy()
        self._steps = np.arange(first - sampler.window.stack + 1, last + 1)
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
        self._gatherers = ThreadPoolExecutor(min(_MAX_THREADS, usable_cores()), "gather") if self._on_gpu else None
        self._coming: tuple[Key, Future[int]] | None = None

    def fetch(self, key: Key, following: Key | None) -> None:
        """Puts the frames of step `key` into `frames` and starts to gather those of step `following`, if any."""
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
        """Gathers a step's frames and rows in host buffer `turn` and starts their copy to the device, in the thread."""
        together, _, batch = self._shape
        frames, rows = self._hosts[turn]
        if self._on_gpu:
            self._landed.synchronize()  # the last copy out of this buffer is done
        drawn = np.random.default_rng(key).integers(len(self._centers), size=(together, batch))
        rows.copy_(torch.from_numpy(drawn))
        centers = self._centers[drawn][:, None]  # [together, 1, B]
        steps = np.maximum(self._steps[:, None], -self._age[centers].astype(np.int64))
        self._copy((centers + steps).reshape(-1), frames.numpy())
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
        parts = np.array_split(np.arange(len(index)), 4 * _MAX_THREADS)
        jobs = [
            self._gatherers.submit(np.take, self._store, index[p[0] : p[-1] + 1], 0, out[p[0] : p[-1] + 1], "clip")
            for p in parts
            if len(p)
        ]
        for job in jobs:
            job.result()
