"""PPO with the IMPALA network (Cobbe et al. 2020, Procgen easy): an expert that learns from rewards.

Half of the environments step in a thread while the network chooses actions for the other half. On a GPU an update is
one CUDA graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.envs import Step
from bcvlr_fast.envs.procgen import Procgen
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.experts.network import ActorCritic, NetworkConfig, forward
from bcvlr_fast.training.checkpoint import load_optimizer_state, optimizer_state
from bcvlr_fast.training.compute import Compute, set_learning_rate
from bcvlr_fast.training.graph import capture

_CHUNK_ON_CPU = 512
_AVERAGED_EPISODES = 100


@dataclass(frozen=True)
class PPOConfig(NetworkConfig):
    """Settings of PPO; the defaults are those of train-procgen and CleanRL's ppo_procgen."""

    num_envs: int = 64
    rollout_steps: int = 256
    minibatches: int = 8
    epochs: int = 3
    learning_rate: float = 5e-4
    anneal: bool = False
    """Whether the learning rate falls linearly to 0 over the training."""
    value_frames: int = 0
    """Frames at the start from which only the value learns: that of a distilled network knows nothing yet."""
    discount: float = 0.999
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    max_reward: float = 10.0
    """Bound of scaled rewards, on both sides of zero."""

    @property
    def batch_frames(self) -> int:
        """Frames per iteration."""
        return self.num_envs * self.rollout_steps

    @property
    def minibatch_frames(self) -> int:
        return self.batch_frames // self.minibatches


class ReturnScale:
    """Divides rewards by the running standard deviation of the discounted return (Welford over batches)."""

    def __init__(self, num_envs: int, discount: float) -> None:
        self._discount = discount
        self._returns = np.zeros(num_envs)
        self.mean, self.variance, self.count = 0.0, 1.0, 1e-4

    def __call__(self, reward: np.ndarray, ended: np.ndarray, envs: slice) -> np.ndarray:
        """Updates the scale and returns scaled rewards [k] of the environments `envs`."""
        returns = self._returns[envs] * self._discount + reward
        total = self.count + len(returns)
        delta = float(returns.mean()) - self.mean
        squares = self.variance * self.count + float(returns.var()) * len(returns)
        self.variance = (squares + delta**2 * self.count * len(returns) / total) / total
        self.mean += delta * len(returns) / total
        self.count = total
        self._returns[envs] = np.where(ended, 0.0, returns)
        return reward / np.sqrt(self.variance + 1e-8)


class PPO:
    """PPO on one game: `iterate` collects a rollout and learns from it."""

    def __init__(self, game: str, config: PPOConfig, compute: Compute, seed: int, env_seed: int = 0) -> None:
        self.config, self.compute = config, compute
        device = compute.device
        torch.manual_seed(seed)
        self.network = cast(ActorCritic, compute.network(ActorCritic(config)))
        self.optimizer = compute.optimizer(self.network.parameters(), config.learning_rate, eps=1e-5)
        self.generator = torch.Generator(device)
        self.generator.manual_seed(seed)
        self.scale = ReturnScale(config.num_envs, config.discount)
        self.frames_done = 0
        self.returns: deque[float] = deque(maxlen=_AVERAGED_EPISODES)
        shape = (config.rollout_steps, config.num_envs)
        self.frames = torch.empty(*shape, *FRAME_SHAPE, dtype=torch.uint8, device=device)
        self.action = torch.zeros(shape, dtype=torch.int64, device=device)
        self.log_probability, self.value, self.reward, self.advantage = (
            torch.zeros(shape, device=device) for _ in range(4)
        )
        self.ended = torch.zeros(shape, dtype=torch.bool, device=device)
        self.index = torch.zeros(config.minibatch_frames, dtype=torch.int64, device=device)
        self._sums = torch.zeros(4, device=device)
        self._update = capture(self._learn, device, self.generator)
        half = config.num_envs // 2
        self._halves = [_Half(self, game, slice(i * half, (i + 1) * half), env_seed) for i in range(2)]
        self._thread = ThreadPoolExecutor(1)

    def iterate(self, progress: float = 0.0) -> dict[str, float]:
        """Collects a rollout, updates on it, and returns the metrics of both; `progress` 0 .. 1 is for annealing."""
        config = self.config
        value_only = self.frames_done < config.value_frames
        self.network.requires_grad_(not value_only)
        self.network.value.requires_grad_(True)
        update = self._learn if value_only else self._update  # a graph would keep what does not learn
        if config.anneal:
            set_learning_rate(self.optimizer, config.learning_rate * (1 - progress))
        self._collect()
        self._estimate_advantages()
        self._sums.zero_()
        for _ in range(config.epochs):
            order = torch.randperm(config.batch_frames, generator=self.generator, device=self.compute.device)
            for index in order.view(config.minibatches, -1):
                self.index.copy_(index)
                update()
        self.frames_done += config.batch_frames
        policy, value, entropy, clipped = (self._sums / (config.epochs * config.minibatches)).tolist()
        metrics = {"policy_loss": policy, "value_loss": value, "entropy": entropy, "clipped": clipped}
        if self.returns:
            metrics["return"] = float(np.mean(self.returns))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything but the environments, whose episodes start again on resumption."""
        return {
            "network": self.network.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "generator": self.generator.get_state(),
            "frames": self.frames_done,
            "scale": {"mean": self.scale.mean, "variance": self.scale.variance, "count": self.scale.count},
            "returns": list(self.returns),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"])
        self.frames_done = state["frames"]
        self.returns.extend(state["returns"])
        scale = state["scale"]
        self.scale.mean, self.scale.variance, self.scale.count = scale["mean"], scale["variance"], scale["count"]

    def act(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (sampled actions [B], their log probabilities [B], values [B]) for frames [B, C, H, W] uint8."""
        with torch.no_grad():
            logits, value = self._forward(frames, torch.arange(len(frames), device=frames.device))
            clocks = torch.empty_like(logits).exponential_(generator=self.generator)
            action = (logits.softmax(dim=1) / clocks).argmax(dim=1)
            return action, _log_probability(logits, action), value

    def clone(self, frames: Tensor, actions: Tensor, updates: int, batch: int = 256) -> float:
        """Clones an expert's actions [N] on its frames [N, C, H, W]; returns the mean loss of the last 100 updates."""
        losses = deque[Tensor](maxlen=100)
        for _ in range(updates):
            rows = torch.randint(len(frames), (batch,), generator=self.generator, device=frames.device)
            logits, _ = self._forward(frames, rows)
            loss = F.cross_entropy(logits, actions[rows])
            self._descend([loss])
            losses.append(loss.detach())
        return float(torch.stack(list(losses)).mean())

    def close(self) -> None:
        self._thread.shutdown()
        for half in self._halves:
            half.env.close()

    def _forward(self, frames: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return forward(self.network, frames, rows, self.compute)

    def _collect(self) -> None:
        for step in range(self.config.rollout_steps):
            for half in self._halves:
                half.finish_step(step - 1)
                half.begin_step(step, self._thread)
        for half in self._halves:
            half.finish_step(self.config.rollout_steps - 1)

    def _estimate_advantages(self) -> None:
        """Generalized advantage estimation, from the last step back."""
        config = self.config
        after = torch.cat([half.value_now() for half in self._halves])
        advantage = torch.zeros_like(after)
        for step in reversed(range(config.rollout_steps)):
            continues = (~self.ended[step]).float()
            error = self.reward[step] + config.discount * continues * after - self.value[step]
            advantage = error + config.discount * config.gae_lambda * continues * advantage
            self.advantage[step] = advantage
            after = self.value[step]

    def _learn(self) -> None:
        """Updates on the rows `index` of the rollout."""
        index = self.index
        advantage = self.advantage.view(-1)[index]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        chunk = len(index) if self.compute.device.type == "cuda" else _CHUNK_ON_CPU
        parts = zip(index.split(chunk), advantage.split(chunk), strict=True)
        self._descend(self._loss(rows, part) * (len(rows) / len(index)) for rows, part in parts)

    def _descend(self, losses: Iterable[Tensor]) -> None:
        """Takes one optimizer step on the sum of the losses; only one of their graphs exists at a time."""
        self.optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()

    def _loss(self, rows: Tensor, advantage: Tensor) -> Tensor:
        config = self.config
        logits, value = self._forward(self.frames.view(-1, *FRAME_SHAPE), rows)
        before, old_value = self.log_probability.view(-1)[rows], self.value.view(-1)[rows]
        ratio = (_log_probability(logits, self.action.view(-1)[rows]) - before).exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy_loss = torch.max(-advantage * ratio, -advantage * clipped).mean()
        target = self.advantage.view(-1)[rows] + old_value
        near = old_value + (value - old_value).clamp(-config.clip, config.clip)
        value_loss = 0.5 * torch.max((value - target).square(), (near - target).square()).mean()
        entropy = -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()
        with torch.no_grad():
            outside = (ratio != clipped).float().mean()
            fraction = len(rows) / len(self.index)
            self._sums += fraction * torch.stack([policy_loss, value_loss, entropy, outside])
        return policy_loss - config.entropy_weight * entropy + config.value_weight * value_loss


class _Half:
    """Half of the environments. While it steps, the network chooses actions for the other half."""

    def __init__(self, ppo: PPO, game: str, columns: slice, seed: int) -> None:
        self._ppo, self._columns = ppo, columns
        count = columns.stop - columns.start
        self.env = Procgen(game, count, seed + columns.start)
        self._current = self.env.reset()
        self._stepping: Future[Step] | None = None
        device = ppo.compute.device
        self._staged = torch.zeros((count, *FRAME_SHAPE), dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._frames = torch.empty_like(self._staged, device=device)
        self._action = torch.zeros(count, dtype=torch.int64, device=device)
        self._log_probability, self._value = torch.zeros(count, device=device), torch.zeros(count, device=device)
        self._choose = capture(self._act, device, ppo.generator)

    def begin_step(self, step: int, thread: ThreadPoolExecutor) -> None:
        """Chooses actions for the current frames and starts the step in the thread."""
        ppo = self._ppo
        self._staged.copy_(torch.from_numpy(self._current))
        self._choose()
        ppo.frames[step, self._columns] = self._frames
        ppo.action[step, self._columns] = self._action
        ppo.log_probability[step, self._columns] = self._log_probability
        ppo.value[step, self._columns] = self._value
        self._stepping = thread.submit(self.env.step, self._action.cpu().numpy())

    def finish_step(self, step: int) -> None:
        """Waits for the step in progress and stores its result in row `step`."""
        if self._stepping is None:
            return
        ppo = self._ppo
        outcome, self._stepping = self._stepping.result(), None
        reward = ppo.scale(self.env.last_reward, outcome.ended, self._columns)
        limit = ppo.config.max_reward
        ppo.reward[step, self._columns] = torch.from_numpy(reward.clip(-limit, limit)).to(ppo.reward)
        ppo.ended[step, self._columns] = torch.from_numpy(outcome.ended).to(ppo.ended.device)
        self._current = outcome.next_frames()
        ppo.returns.extend(episode.score for episode in self.env.pop_episodes())

    def value_now(self) -> Tensor:
        """Values [n] of the frames after the rollout."""
        return self._ppo.act(torch.from_numpy(self._current).to(self._frames.device))[2]

    def _act(self) -> None:
        self._frames.copy_(self._staged, non_blocking=True)
        action, log_probability, value = self._ppo.act(self._frames)
        self._action.copy_(action)
        self._log_probability.copy_(log_probability)
        self._value.copy_(value)


def _log_probability(logits: Tensor, action: Tensor) -> Tensor:
    return logits.log_softmax(dim=1).gather(1, action[:, None])[:, 0]
