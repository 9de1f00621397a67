"""DAgger (Ross et al. 2011): a network learns what a reactive expert does, from states that the network gets into.

Workers play in Procgen's simulator. In each of their copies the network acts most of the time and the expert now and
then, so that states late in an episode are seen before the network gets there by itself. The expert scores the actions
in every state, whoever acts, and the network learns their softmax.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F

from bcvlr_fast.envs.procgen import NUM_ACTIONS
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.experts.network import ActorCritic, NetworkConfig, forward
from bcvlr_fast.experts.procgen import REACTIVE
from bcvlr_fast.experts.simulator import Simulator
from bcvlr_fast.training.checkpoint import load_optimizer_state, optimizer_state
from bcvlr_fast.training.compute import Compute, set_learning_rate

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class DistillConfig:
    """Settings of the distillation of a reactive expert into a network."""

    updates: int = 20_000
    """Gradient updates."""
    batch_size: int = 128
    optimizer: str = "muon"
    learning_rate: float = 2e-3
    """Learning rate at the start; it falls to zero along a cosine."""
    weight_decay: float = 1e-2
    copies: int = 32
    """Copies of the game in each worker."""
    steps: int = 64
    """Steps of every copy in an iteration."""
    updates_per_iteration: int = 80
    buffer_frames: int = 300_000
    """Frames to learn from; the oldest are dropped first."""
    expert_share: float = 0.2
    """Fraction of the steps in which the expert acts, after the first iterations, in which it falls from 1."""
    annealing_iterations: int = 10
    stretch_steps: int = 40
    """Mean number of steps until the one who acts is drawn again."""
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(stem=16))


class Collected(NamedTuple):
    """N frames with what the expert makes of them."""

    frames: np.ndarray
    """[N, C, H, W] uint8."""
    regrets: np.ndarray
    """[N, 15] float32: regrets of the expert."""
    agreement: float
    """Fraction of the network's actions that were the expert's; NaN if the network did not act."""


class Stage:
    """Copies of a game in which network and expert take turns; lives in a worker."""

    def __init__(self, game: str, config: DistillConfig, seed: int) -> None:
        torch.set_num_threads(1)
        self._config, self._expert = config, REACTIVE[game]
        self._simulator = Simulator(game, config.copies, None, seed=seed, draws=True)
        self._random = np.random.default_rng(seed)
        self._network = ActorCritic(config.network).eval()
        self._expert_acts = np.ones(config.copies, bool)
        self._is_greedy = np.arange(config.copies) % 2 == 0

    def collect(self, weights: Weights, expert_share: float) -> Collected:
        """Plays `steps` steps in every copy. Half of the copies take the network's most probable actions, the others
        samples."""
        self._network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        config, simulator, copies = self._config, self._simulator, self._config.copies
        frames = np.empty((config.steps, copies, *FRAME_SHAPE), np.uint8)
        regrets = np.empty((config.steps, copies, NUM_ACTIONS), np.float32)
        agrees = np.full((config.steps, copies), np.nan)
        for step in range(config.steps):
            frames[step] = simulator.frames
            for copy in range(copies):
                regrets[step, copy] = self._expert.regrets(simulator.view(copy))
            chosen, best = self._network_actions(frames[step]), regrets[step].argmin(axis=1)
            redrawn = self._random.random(copies) < 1 / config.stretch_steps
            self._expert_acts = np.where(redrawn, self._random.random(copies) < expert_share, self._expert_acts)
            agrees[step] = np.where(self._expert_acts, np.nan, chosen == best)
            simulator.step(np.where(self._expert_acts, best, chosen))
        acted = agrees[~np.isnan(agrees)]
        agreement = float(acted.mean()) if len(acted) else float("nan")
        return Collected(frames.reshape(-1, *FRAME_SHAPE), regrets.reshape(-1, NUM_ACTIONS), agreement)

    @torch.no_grad()
    def _network_actions(self, frames: np.ndarray) -> np.ndarray:
        logits = self._network(torch.from_numpy(frames).float().div(255).sub(0.5))[0].numpy()
        noise = np.where(self._is_greedy[:, None], 0, self._random.gumbel(size=logits.shape))
        chosen: np.ndarray = (logits + noise).argmax(axis=1)
        return chosen


def collect(game: str, config: DistillConfig, seed: int, weights: Weights, expert_share: float) -> Collected:
    """An iteration of a worker, which keeps its copies for the next."""
    return _stage(game, config, seed).collect(weights, expert_share)


@functools.cache
def _stage(game: str, config: DistillConfig, seed: int) -> Stage:
    return Stage(game, config, seed)


class Student:
    """The network, its optimizer, and the newest frames that it learns from."""

    def __init__(self, config: DistillConfig, compute: Compute, seed: int) -> None:
        self.config, self.compute = config, compute
        torch.manual_seed(seed)
        self.network = cast(ActorCritic, compute.network(ActorCritic(config.network)))
        self.optimizer = compute.optimizer(self.network.parameters(), config.learning_rate, config.weight_decay)
        self.generator = torch.Generator(compute.device).manual_seed(seed)
        self.frames = torch.empty((config.buffer_frames, *FRAME_SHAPE), dtype=torch.uint8, device=compute.device)
        self.regrets = torch.empty((config.buffer_frames, NUM_ACTIONS), device=compute.device)
        self.added = self.done = 0

    @property
    def weights(self) -> Weights:
        """The network's weights, for the workers."""
        return {name: value.detach().float().cpu().numpy().copy() for name, value in self.network.state_dict().items()}

    def add(self, collected: Collected) -> None:
        """Stores frames over the oldest ones."""
        rows = torch.arange(self.added, self.added + len(collected.frames)) % self.config.buffer_frames
        self.frames[rows] = torch.from_numpy(collected.frames).to(self.frames.device)
        self.regrets[rows] = torch.from_numpy(collected.regrets).to(self.regrets.device)
        self.added += len(rows)

    def learn(self, updates: int) -> float:
        """Takes some updates and returns their mean loss: the divergence from the softmax of the negative regrets."""
        config, device = self.config, self.compute.device
        kept = min(self.added, config.buffer_frames)
        total = torch.zeros((), device=device)
        for _ in range(updates):
            progress = min(1.0, self.done / config.updates)
            set_learning_rate(self.optimizer, config.learning_rate * (1 + math.cos(math.pi * progress)) / 2)
            rows = torch.randint(kept, (config.batch_size,), generator=self.generator, device=device)
            logits, _ = forward(self.network, self.frames, rows, self.compute)
            targets = (-self.regrets[rows]).softmax(dim=1)
            loss = F.kl_div(logits.log_softmax(dim=1), targets, reduction="batchmean")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
            self.done += 1
        return float(total / updates)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the frames, which are collected again on resumption."""
        return {
            "network": self.network.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "generator": self.generator.get_state(),
            "done": self.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"])
        self.done = state["done"]
