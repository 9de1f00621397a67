"""capture: work that is a function of device memory alone, as a CUDA graph on a GPU and as it is on a CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

_WARM_UP_CALLS = 3


def capture(work: Callable[[], None], device: torch.device, *generators: torch.Generator) -> Callable[[], None]:
    """`work` as something to call again and again, on a GPU without the host's part in it.

    There the first calls run as they are, on a stream of their own: they do real work, and libraries choose their
    algorithms and Triton compiles meanwhile. Then `work` is recorded once and replayed from there on.

    What `work` does must depend on tensors alone that keep their addresses: it reads no values on the host, takes no
    branch on data, and leaves its results in place. Random numbers come from `generators`, which go on in a graph as
    they would outside it; their states, the tensors, and learning rates held in tensors may be changed in between.
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
        gc.collect()  # an old graph that went in the middle of this recording would end it
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # Another thread may be copying frames to the device meanwhile; only this one's calls are recorded.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._work()
        return graph
