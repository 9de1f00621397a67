"""Experts for continuous control: soft actor-critic on an environment's states (Haarnoja et al. 2018)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.experts.weights import load_weights, not_weights

_LOG_STD = (-5.0, 2.0)


@dataclass(frozen=True)
class SacConfig:
    """Settings of SAC; an interaction is one agent step in one environment."""

    updates: int
    batch_size: int = 256
    learning_rate: float = 1e-3
    hidden_dim: int = 256
    discount: float = 0.99
    target_rate: float = 0.01
    target_entropy: float = -1.5
    """Per dimension of an action."""
    actor_every: int = 2
    num_envs: int = 16
    steps_per_update: int = 2
    """Interactions per update."""
    random_steps: int = 10_000
    """Random interactions before the first update."""
    evaluate_every: int = 5_000
    """Updates between evaluations."""


class Actor(nn.Module):
    """Maps states [B, S] to mean and log standard deviation, both [B, A], of actions before tanh."""

    mean: Tensor
    scale: Tensor

    def __init__(self, state_dim: int, action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.register_buffer("mean", torch.zeros(state_dim))
        self.register_buffer("scale", torch.ones(state_dim))
        self.layers = nn.Sequential(
            nn.Linear(state_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 2 * action_dim),
        )

    def normalize(self, states: Tensor) -> Tensor:
        """Standardizes states by random play and compresses large values logarithmically.

        Clipping would hide the speed of fast motion, such as a spinner's.
        """
        x = (states - self.mean) * self.scale
        return x.sign() * x.abs().log1p()

    def forward(self, normalized: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.layers(normalized).chunk(2, dim=1)
        low, high = _LOG_STD
        return mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)

    def sample(self, normalized: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (actions [B, A] in -1..1, their log probabilities [B]), differentiable."""
        mean, log_std = self(normalized)
        noise = torch.randn_like(mean)
        before = mean + noise * log_std.exp()
        normal = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        correction = 2 * (math.log(2) - before - F.softplus(-2 * before))
        return torch.tanh(before), (normal - correction).sum(dim=1)

    @torch.no_grad()
    def act(self, states: np.ndarray, explore: bool = False) -> np.ndarray:
        """Actions [k, A] float32 for states [k, S]: the mean, or sampled to explore."""
        normalized = self.normalize(torch.from_numpy(states))
        actions = self.sample(normalized)[0] if explore else torch.tanh(self(normalized)[0])
        return actions.numpy()


class TwinCritic(nn.Module):
    """Two critics as one batched network with layer norm: states [B, S] and actions [B, A] to values [2, B]."""

    def __init__(self, state_dim: int, action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        widths = [state_dim + action_dim, hidden_dim, hidden_dim, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(widths):
            bound = fan_in**-0.5
            self.weights.append(nn.Parameter(torch.empty(2, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(2, 1, fan_out)))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        x = torch.cat([states, actions], dim=1).expand(2, -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x if i == 0 else F.relu(F.layer_norm(x, x.shape[-1:])), weight)
        return x.squeeze(2)


class Transitions(NamedTuple):
    """A batch of transitions."""

    states: Tensor
    actions: Tensor
    reward: Tensor
    next_states: Tensor


class Sac:
    """Soft actor-critic: actor, critics, temperature, and their update."""

    def __init__(self, state_dim: int, action_dim: int, config: SacConfig) -> None:
        self.config = config
        self.actor = Actor(state_dim, action_dim, config.hidden_dim)
        self.critic = TwinCritic(state_dim, action_dim, config.hidden_dim)
        self.target = TwinCritic(state_dim, action_dim, config.hidden_dim)
        self.target.load_state_dict(self.critic.state_dict())
        self.target.requires_grad_(False)
        self.log_temperature = torch.tensor(math.log(0.1), requires_grad=True)
        rate = config.learning_rate
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), rate, fused=True)
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], rate)
        self._updates = 0

    def update(self, batch: Transitions) -> None:
        """Updates the critics, and on every `actor_every`-th call the actor and the temperature."""
        config, actor = self.config, self.actor
        states, next_states = actor.normalize(batch.states), actor.normalize(batch.next_states)
        temperature = self.log_temperature.detach().exp()
        with torch.no_grad():
            next_actions, log_probability = actor.sample(next_states)
            value = self.target(next_states, next_actions).amin(dim=0) - temperature * log_probability
            target = batch.reward + config.discount * value
        loss = F.mse_loss(self.critic(states, batch.actions), target.expand(2, -1)) * 2
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        if self._updates % config.actor_every == 0:
            self._update_actor(states, temperature)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), config.target_rate)
        self._updates += 1

    def _update_actor(self, states: Tensor, temperature: Tensor) -> None:
        self.critic.requires_grad_(False)
        actions, log_probability = self.actor.sample(states)
        loss = (temperature * log_probability - self.critic(states, actions).amin(dim=0)).mean()
        self.actor_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.actor_optimizer.step()
        self.critic.requires_grad_(True)
        surplus = log_probability.detach().mean() + self.config.target_entropy * self.actor.action_dim
        self.temperature_optimizer.zero_grad(set_to_none=True)
        (-self.log_temperature.exp() * surplus).backward()
        self.temperature_optimizer.step()


class StateReplay:
    """Replay buffer of the newest transitions, sampled uniformly."""

    def __init__(self, capacity: int, state_dim: int, action_dim: int) -> None:
        self.states, self.next_states = torch.empty(capacity, state_dim), torch.empty(capacity, state_dim)
        self.actions, self.reward = torch.empty(capacity, action_dim), torch.empty(capacity)
        self.count = 0

    def append(self, states: np.ndarray, actions: np.ndarray, reward: np.ndarray, next_states: np.ndarray) -> None:
        rows = (self.count + torch.arange(len(states))) % len(self.reward)
        self.states[rows], self.next_states[rows] = torch.from_numpy(states), torch.from_numpy(next_states)
        self.actions[rows], self.reward[rows] = torch.from_numpy(actions), torch.from_numpy(reward).float()
        self.count += len(states)

    def draw(self, batch_size: int) -> Transitions:
        rows = torch.randint(min(self.count, len(self.reward)), (batch_size,))
        return Transitions(self.states[rows], self.actions[rows], self.reward[rows], self.next_states[rows])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Returns (mean, 1 / standard deviation) of the states, each [S]."""
        states = self.states[: self.count]
        return states.mean(dim=0), 1 / states.std(dim=0).clamp(min=1e-3)


def load_actor(file: Path) -> tuple[Actor, dict[str, Any]]:
    """Loads (actor, card) from a file of weights. Raises UserError if it is invalid."""
    tensors, card = load_weights(file)
    try:
        hidden, state_dim = tensors["layers.0.weight"].shape
        actor = Actor(state_dim, len(tensors["layers.4.bias"]) // 2, hidden)
        actor.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise not_weights(file, error) from None
    return actor, card
