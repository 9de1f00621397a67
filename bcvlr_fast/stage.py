"""What the training stages share: a counter, what to save, one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Metrics = dict[str, Tensor]
"""Scalars that stay on the device until somebody logs them."""


class Stage:
    """A phase of training: `step` does some updates; `done` of `updates` are finished.

    `networks` (those that only this stage has) and `optimizers` are what a checkpoint must keep
    beside the agent and the generator.
    """

    name: str

    def __init__(self, updates: int, networks: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]):
        self.updates = updates
        self.networks = networks
        self.optimizers = optimizers
        self.done = 0

    def step(self) -> Metrics:
        """One or more updates; raises `done` by their number."""
        raise NotImplementedError
