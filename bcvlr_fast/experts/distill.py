"""DAgger (Ross et al. 2011): a network learns what a reactive expert does, from states that the network gets into.

Workers play in Procgen's simulator. In each of their copies the network acts most of the time and the expert now and
then, so that states late in an episode are seen before the network gets there by itself. The expert scores the actions
in every state, whoever acts, and the network learns their softmax. Copies begin with new levels now and then.
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
from torch import Tensor

from bcvlr_fast.envs.procgen import NUM_ACTIONS
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.experts.network import ActorCritic, NetworkConfig, forward
from bcvlr_fast.experts.playing import sample_actions
from bcvlr_fast.experts.procgen import REACTIVE
from bcvlr_fast.experts.simulator import Simulator, View
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
    groups: int = 32
    """Groups of copies of the game in each worker."""
    group_copies: int = 8
    level_steps: int = 200
    """Mean number of steps until a group begins with new levels, whether or not its episodes have ended. A network that
    sees few levels may learn them by heart."""
    steps: int = 8
    """Steps of every copy in an iteration."""
    samples_per_frame: float = 2.0
    """Number of times that each frame is learned from. A new frame costs about as much as a sample of an old one."""
    buffer_frames: int = 300_000
    """Frames to learn from; the oldest are dropped first."""
    shift_pad: int = 2
    """Largest shift of a frame, in pixels."""
    expert_share: float = 0.2
    """Fraction of the steps in which the expert acts, after the first updates, in which it falls from 1."""
    annealing_updates: int = 800
    stretch_steps: int = 40
    """Mean number of steps until the one who acts is drawn again."""
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(stem=16))

    @property
    def copies(self) -> int:
        """Copies of the game in each worker."""
        return self.groups * self.group_copies


class Collected(NamedTuple):
    """N frames with what the expert makes of them."""

    frames: np.ndarray
    """[N, C, H, W] uint8."""
    regrets: np.ndarray
    """[N, 15] float32: regrets of the expert."""
    loss: float
    """That of the network, which has not learned from these frames."""
    agreement: float
    """Fraction of the network's actions whose regret was below 1; NaN if the network did not act."""


class Copies:
    """Copies of a game in groups, each of which begins with new levels now and then."""

    def __init__(self, game: str, config: DistillConfig, random: np.random.Generator) -> None:
        self._game, self._size, self._random = game, config.group_copies, random
        self._groups = [self._begin() for _ in range(config.groups)]

    def _begin(self) -> Simulator:
        return Simulator(self._game, self._size, None, seed=int(self._random.integers(2**31)), draws=True)

    @property
    def frames(self) -> np.ndarray:
        """[copies, C, H, W] uint8."""
        return np.concatenate([group.frames for group in self._groups])

    def view(self, copy: int) -> View:
        """Contents of the present state of one copy."""
        return self._groups[copy // self._size].view(copy % self._size)

    def step(self, actions: np.ndarray) -> None:
        """Steps every copy by its action."""
        for group, own in zip(self._groups, actions.reshape(-1, self._size), strict=True):
            group.step(own)

    def renew(self, group: int) -> None:
        """Begins a group with new levels."""
        self._groups[group].close()
        self._groups[group] = self._begin()


class Stage:
    """Copies of a game in which network and expert take turns; lives in a worker."""

    def __init__(self, game: str, config: DistillConfig, seed: int) -> None:
        torch.set_num_threads(1)
        self._config, self._expert = config, REACTIVE[game]
        self._random = np.random.default_rng(seed)
        self._copies = Copies(game, config, self._random)
        self._network = ActorCritic(config.network).eval()
        self._expert_acts = np.ones(config.copies, bool)
        self._temperature = np.arange(config.copies)[:, None] % 2
        self._last_frames = np.zeros((config.copies, *FRAME_SHAPE), np.uint8)

    def collect(self, weights: Weights, expert_share: float) -> Collected:
        """Gives some groups new levels, then plays `steps` steps in every copy.

        Half of the copies take the network's most probable actions, the others samples. Where nothing has changed since
        the last step, the frame is dropped and a random action is taken in place of the network's, which would do the
        same again.
        """
        self._network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        config, copies = self._config, self._config.copies
        renewed = self._random.random(config.groups) < config.steps / config.level_steps
        for group in np.flatnonzero(renewed).tolist():
            self._copies.renew(group)
        frames = np.empty((config.steps, copies, *FRAME_SHAPE), np.uint8)
        regrets = np.empty((config.steps, copies, NUM_ACTIONS), np.float32)
        logits = np.empty_like(regrets)
        is_new, by_network = np.empty((2, config.steps, copies), bool)
        actions = np.empty((config.steps, copies), np.int64)
        for step in range(config.steps):
            frames[step] = seen = self._copies.frames
            is_new[step] = (frames[step] != self._last_frames).any(axis=(1, 2, 3))
            self._last_frames = frames[step]
            for copy in range(copies):
                regrets[step, copy] = self._expert.regrets(self._copies.view(copy))
            logits[step] = self._logits(seen)
            redrawn = self._random.random(copies) < 1 / config.stretch_steps
            self._expert_acts = np.where(redrawn, self._random.random(copies) < expert_share, self._expert_acts)
            by_network[step] = ~self._expert_acts & is_new[step]
            actions[step] = self._random.integers(NUM_ACTIONS, size=copies)
            np.copyto(
                actions[step], sample_actions(logits[step], self._temperature, self._random), where=by_network[step]
            )
            np.copyto(actions[step], regrets[step].argmin(axis=1), where=self._expert_acts)
            self._copies.step(actions[step])
        self._last_frames = frames[-1].copy()  # a view would keep all frames until the next iteration
        agrees = np.take_along_axis(regrets, actions[..., None], axis=2)[by_network] < 1
        loss = float(divergence(torch.from_numpy(logits[is_new]), torch.from_numpy(regrets[is_new])))
        return Collected(frames[is_new], regrets[is_new], loss, float(agrees.mean()) if len(agrees) else float("nan"))

    @torch.no_grad()
    def _logits(self, frames: np.ndarray) -> np.ndarray:
        """Logits [B, 15] of frames [B, C, H, W]; twice as fast for the simulator's, which have channels last."""
        logits: np.ndarray = self._network(torch.from_numpy(frames).float().div(255).sub(0.5))[0].numpy()
        return logits


def divergence(logits: Tensor, regrets: Tensor) -> Tensor:
    """Mean divergence of policies from the softmax of the negative regrets, both [B, 15]."""
    return F.kl_div(logits.log_softmax(dim=1), (-regrets).softmax(dim=1), reduction="batchmean")


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
        """Takes some updates and returns their mean loss."""
        config, device = self.config, self.compute.device
        kept = min(self.added, config.buffer_frames)
        total = torch.zeros((), device=device)
        for _ in range(updates):
            progress = min(1.0, self.done / config.updates)
            set_learning_rate(self.optimizer, config.learning_rate * (1 + math.cos(math.pi * progress)) / 2)
            rows = torch.randint(kept, (config.batch_size,), generator=self.generator, device=device)
            shifts = (config.batch_size, 2)
            offset = torch.randint(2 * config.shift_pad + 1, shifts, generator=self.generator, device=device)
            logits, _ = forward(self.network, self.frames, rows, self.compute, offset, config.shift_pad)
            loss = divergence(logits, self.regrets[rows])
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
