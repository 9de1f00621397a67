"""What the training stages share: updates that can be captured, their mean figures, what to save."""

from __future__ import annotations

import weakref
import zlib

import torch
from torch import Tensor, nn

from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.graph import capture

Metrics = dict[str, Tensor]
"""Scalars on the device."""

MOST_TOGETHER = 16
"""Updates of a step where it pays to have many: in a graph, or before a large batch of labels."""


class Stage:
    """A phase of training: `step` does some updates; `done` of `updates` are finished.

    A step's updates are one CUDA graph on a GPU, so `prepare` and `update` are functions of tensors alone and read no
    value on the host. `batches` holds what they draw; `networks` (those that only this stage has) and `optimizers` are
    what a checkpoint must keep beside the agent and the generator.
    """

    name: str
    batches: Batches

    def __init__(
        self,
        updates: int,
        networks: dict[str, nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
        compute: Compute,
        generator: torch.Generator,
        *,
        period: int = 1,
        together: int | None = None,
    ) -> None:
        """`period` divides the updates of a step; `together` is their number, by default what suits the device."""
        self.updates = updates
        self.networks = networks
        self.optimizers = optimizers
        self.done = 0
        self.round = 0
        most = together or (MOST_TOGETHER if compute.device.type == "cuda" else period)
        self.together = largest_divisor(updates, most, period)
        stage = weakref.proxy(self)  # so that a finished stage, and its graph, go when nobody holds them
        self._step = capture(lambda: stage._run(stage.together), compute.device, generator)
        self._sums: Tensor | None = None  # [metrics] float32 on the device, over the updates since they were read
        self._names: tuple[str, ...] = ()
        self._summed = 0

    def prepare(self, count: int) -> None:
        """What the next `count` updates have in common: drawing their batches."""
        self.batches.draw(count)

    def update(self, number: int) -> Metrics:
        """Update `number` of a step, from 0."""
        raise NotImplementedError

    def step(self) -> None:
        """The next updates, `together` of them or what is left."""
        count = min(self.together, self.updates - self.done)
        after = self.done + count
        following = (self._key, self.round, after) if after < self.updates else None
        self.batches.fetch((self._key, self.round, self.done), following)
        if count == self.together:
            self._step()
        else:
            self._run(count)
        self.done = after
        self._summed += count

    def read_metrics(self) -> dict[str, float]:
        """Means over the updates since the last reading, NaN where one of them was. Waits for the device."""
        if self._sums is None:
            return {}
        means = (self._sums / self._summed).tolist()
        self._sums.zero_()
        self._summed = 0
        return dict(zip(self._names, means, strict=True))

    def restart(self, round_: int) -> None:
        """Makes the stage ready for another round of its updates, on what its tensors hold by then."""
        self.done, self.round = 0, round_

    @property
    def _key(self) -> int:
        return zlib.crc32(self.name.encode())

    def _run(self, count: int) -> None:
        self.prepare(count)
        for number in range(count):
            metrics = self.update(number)
            row = torch.stack([value.detach().float() for value in metrics.values()])
            if self._sums is None:  # in the first update, which is never part of a graph
                self._sums, self._names = torch.zeros_like(row), tuple(metrics)
            self._sums.add_(row)


def largest_divisor(updates: int, most: int, period: int = 1) -> int:
    """The largest multiple of `period` up to `most` that divides `updates`; if that is under half of it, `most` itself.

    Rounded down to a multiple of `period`, and at least that.
    """
    fitting = [n for n in range(period, max(most, period) + 1, period) if updates % n == 0]
    largest = max(fitting, default=0)
    return largest if 2 * largest >= most else max(most // period, 1) * period
