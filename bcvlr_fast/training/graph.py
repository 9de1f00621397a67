"""capture: turns work on device memory into a CUDA graph on a GPU, and leaves it unchanged on a CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

_WARM_UP_CALLS = 3


def capture(work: Callable[[], None], device: torch.device, *generators: torch.Generator) -> Callable[[], None]:
    """A function that does `work` each time it is called; on a GPU the host only launches a graph.

    On a GPU the first calls run eagerly on a separate stream: they do real work while libraries choose algorithms and
    Triton compiles. The next call captures `work` once, and every later call replays it.

    `work` must depend only on tensors that keep their addresses: it reads no values on the host, has no branches on
    data, and writes its results in place. Random numbers come from `generators`, which advance in a graph as they would
    outside it. Their states, the tensors, and learning rates held in tensors may change between calls.
    """
    if device.type != "cuda":
        return work
    return _Captured(work, device, generators)


class _Captured:
    def __init__(self, work: Callable[[], None], device: torch.device, generators: tuple[torch.Generator, ...]) -> None:
        self._work, self._generators = work, generators
        self._stream = torch.cuda.Stream(device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._calls < _WARM_UP_CALLS:
            self._calls += 1
            current = torch.cuda.current_stream(self._stream.device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                self._work()
            current.wait_stream(self._stream)
            return
        if self._graph is None:
            self._graph = self._recorded()
        self._graph.replay()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        gc.collect()  # an old graph that is freed during this capture would end it
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # Another thread may copy frames to the device meanwhile; only this thread's calls are captured.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._work()
        return graph
