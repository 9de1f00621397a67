"""Where the time goes: seconds by part, and traces of chosen updates for Nsight or Perfetto."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bcvlr_fast.training.learner import Learner

TRACES = "traces"


class TimeSpent:
    """Seconds of each part of a run, with its count of work (updates, interactions, episodes)."""

    def __init__(self, parts: dict[str, dict[str, float]] | None = None) -> None:
        self.parts = parts or {}

    def add(self, part: str, count: float, seconds: float) -> None:
        """Adds `count` pieces of work of a part that took `seconds`."""
        known = self.parts.setdefault(part, {"count": 0, "seconds": 0.0})
        known["count"] += count
        known["seconds"] += seconds

    @contextlib.contextmanager
    def on(self, part: str, count: float) -> Iterator[None]:
        """Adds the time spent in the context, for `count` pieces of work."""
        start = time.perf_counter()
        yield
        self.add(part, count, time.perf_counter() - start)

    def line(self) -> str:
        """Seconds by part, the longest first."""
        parts = sorted(self.parts.items(), key=lambda part: -part[1]["seconds"])
        return ", ".join(f"{name.replace('_', ' ')} {known['seconds']:.0f} s" for name, known in parts)


class Profiler:
    """Profiles updates first to end of each kind of learner, counted over all its rounds.

    On a GPU each step is an NVTX range, and the chosen updates lie between cudaProfilerStart and cudaProfilerStop,
    which `nsys profile --capture-range=cudaProfilerApi` and `ncu --profile-from-start off` wait for. On a CPU each
    learner leaves a trace for Perfetto in `folder`.
    """

    def __init__(self, updates: tuple[int, int] | None, folder: Path, device: torch.device) -> None:
        self._updates, self._folder, self._on_gpu = updates, folder, device.type == "cuda"
        self._done: dict[str, int] = {}
        self._profiled: set[str] = set()
        self._trace: Any = None
        self._active: str | None = None

    @contextlib.contextmanager
    def learner(self) -> Iterator[None]:
        """Context for the steps of one learner; an open profile ends with it."""
        try:
            yield
        finally:
            self.finish()

    @contextlib.contextmanager
    def step(self, learner: Learner) -> Iterator[None]:
        """Context for one step of the learner."""
        if self._updates is None:
            yield
            return
        done = self._done.get(learner.name, 0)
        if self._active is None and learner.name not in self._profiled and done >= self._updates[0]:
            self._begin(learner.name)
        before = learner.done
        with self._marked(f"{learner.name} {done}"):
            yield
        self._done[learner.name] = done + learner.done - before

    def end_of_step(self) -> None:
        """Ends the open profile after its last chosen update."""
        if self._active and self._updates and self._done[self._active] >= self._updates[1]:
            self.finish()

    def finish(self) -> None:
        """Ends the open profile, if there is one."""
        if self._active is None:
            return
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()
        else:
            self._trace.stop()
            self._folder.mkdir(exist_ok=True)
            self._trace.export_chrome_trace(str(self._folder / f"{self._active}.json.gz"))
            self._trace = None
        self._profiled.add(self._active)
        self._active = None

    def _begin(self, name: str) -> None:
        self._active = name
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        else:
            self._trace = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True)
            self._trace.start()

    def _marked(self, name: str) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.nvtx.range(name) if self._on_gpu else torch.profiler.record_function(name)
