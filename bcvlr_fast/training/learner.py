"""Learner: one kind of update as a function of tensors, with its optimizers and its state."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.checkpoint import load_optimizer_state, optimizer_state
from bcvlr_fast.training.compute import Compute, set_learning_rate
from bcvlr_fast.training.graph import capture

Metrics = dict[str, Tensor]
"""Scalars on the device."""

MAX_TOGETHER = 16
"""Updates per step where many pay off: in a CUDA graph, or before a large batch of labels."""


class Learner:
    """Trains networks with `updates` updates, of which `done` are finished; each `step` runs a few of them.

    The updates of a step are one CUDA graph on a GPU, so `prepare` and `update` are functions of tensors alone and read
    no value on the host. Subclasses set `name` and `batches`, and implement `update`, which ends in `descend`.
    """

    name: str
    batches: Batches

    def __init__(
        self,
        updates: int,
        optimizers: Mapping[str, torch.optim.Optimizer],
        compute: Compute,
        generator: torch.Generator,
        *,
        networks: Mapping[str, nn.Module] | None = None,
        train_mode: Sequence[nn.Module] = (),
        period: int = 1,
        together: int | None = None,
    ) -> None:
        """`networks` are the ones that only this learner has, saved with its state. `train_mode` modules are in
        training mode during a step and in evaluation mode otherwise. `period` divides the updates of a step;
        `together` is their number, by default what suits the device."""
        self.updates, self.done, self.round = updates, 0, 0
        self.optimizers, self.networks = dict(optimizers), dict(networks or {})
        self.anneals = False
        """Whether the learning rates fall linearly to 0 over these updates."""
        self._rates = {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in optimizers.items()}
        self._train_mode = tuple(train_mode)
        limit = together or (MAX_TOGETHER if compute.device.type == "cuda" else period)
        self.together = largest_divisor(updates, limit, period)
        learner = weakref.proxy(self)  # a finished learner and its graph are freed without garbage collection
        self._step = capture(lambda: learner._run(learner.together), compute.device, generator)
        self._sums: Tensor | None = None  # [metrics] float32 on the device, over the updates since the last reading
        self._names: tuple[str, ...] = ()
        self._summed = 0

    def update(self, number: int) -> Metrics:
        """Runs update `number` of a step, counted from 0; its metrics contain `loss`."""
        raise NotImplementedError

    def prepare(self, count: int) -> None:
        """Draws the batches of the next `count` updates; subclasses add other work that the updates share."""
        self.batches.draw(count)

    def step(self) -> None:
        """Runs the next updates: `together` of them, or the rest."""
        count = min(self.together, self.updates - self.done)
        after = self.done + count
        following = (self._key, self.round, after) if after < self.updates else None
        self.batches.fetch((self._key, self.round, self.done), following)
        if self.anneals:
            self.scale_rates(1 - self.done / self.updates)
        for module in self._train_mode:
            module.train()
        if count == self.together:
            self._step()
        else:
            self._run(count)
        for module in self._train_mode:
            module.eval()
        self.done = after
        self._summed += count

    def descend(self, loss: Tensor, max_grad_norm: float | None = None) -> Tensor | None:
        """One step of every optimizer down the gradient of `loss`; the gradient's norm [] where it is clipped."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = None
        if max_grad_norm is not None:
            groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
            norm = nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], max_grad_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return norm

    def scale_rates(self, scale: float) -> None:
        """Sets the learning rates to `scale` times those at the start."""
        for name, optimizer in self.optimizers.items():
            set_learning_rate(optimizer, scale * self._rates[name])

    def begin_round(self, round_: int, updates: int | None = None) -> None:
        """Prepares round `round_`, with `updates` updates if given, on what the learner's tensors hold by now.

        It leaves `done` as it is, so that a resumed round continues.
        """
        self.round = round_
        if updates is not None:
            self.updates = updates

    def end_round(self) -> None:
        """Counts the next round's updates from 0."""
        self.done = 0

    def read_metrics(self) -> dict[str, float]:
        """Means over the updates since the last reading; NaN where one update gave NaN. Waits for the device."""
        if self._sums is None:
            return {}
        means = (self._sums / self._summed).tolist()
        self._sums.zero_()
        self._summed = 0
        return dict(zip(self._names, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Updates done, optimizers, and the networks that only this learner has."""
        return {
            "done": self.done,
            "optimizers": {name: optimizer_state(optimizer) for name, optimizer in self.optimizers.items()},
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        for name, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, state["optimizers"].get(name, {}))
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])

    @property
    def _key(self) -> int:
        return zlib.crc32(self.name.encode())

    def _run(self, count: int) -> None:
        self.prepare(count)
        for number in range(count):
            metrics = self.update(number)
            row = torch.stack([value.detach().float() for value in metrics.values()])
            if self._sums is None:  # during the first update, which is never captured
                self._sums, self._names = torch.zeros_like(row), tuple(metrics)
            self._sums.add_(row)


def largest_divisor(updates: int, limit: int, period: int = 1) -> int:
    """The largest multiple of `period` up to `limit` that divides `updates`; if it is under half of `limit`, `limit`
    itself, rounded down to a multiple of `period` that is at least one `period`."""
    fitting = [n for n in range(period, max(limit, period) + 1, period) if updates % n == 0]
    largest = max(fitting, default=0)
    return largest if 2 * largest >= limit else max(limit // period, 1) * period
