"""Phase 3, and again in every online round: the latent policy pi clones latent actions (Eq. 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import PolicyConfig
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.learner import MAX_TOGETHER, Learner, Metrics

_LABEL_BATCH = 512


class Cloning(Learner):
    """Trains pi on the videos against the latent actions of p, which is frozen meanwhile.

    p labels windows in large forward passes: the whole store at once if the phase draws more windows than the store
    has, otherwise the windows of one step.
    """

    name = "cloning"

    def __init__(
        self,
        config: PolicyConfig,
        agent: Agent,
        sampler: WindowSampler,
        *,
        updates: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float = 0.0,
        decoded_weight: float = 0.0,
    ) -> None:
        self.config, self.agent = config, agent
        self._decoded_weight = decoded_weight
        super().__init__(
            updates,
            {"policy": agent.compute.optimizer(agent.policy.parameters(), learning_rate, weight_decay)},
            agent.compute,
            sampler.generator,
            together=MAX_TOGETHER,
        )
        self.label_all = updates * batch_size >= len(sampler.centers)
        self.batches = Batches(sampler, batch_size, self.together, last=0 if self.label_all else None)
        # [W, latent_dim] float32, row i for window sampler.centers[i]; a graph reads it, so it is refilled in place
        self._all_labels: Tensor | None = None
        self._labels_are_current = False
        self._labels: Tensor  # [count, B, latent_dim] float32 of one step

    def begin_round(self, round_: int, updates: int | None = None) -> None:
        """As `Learner.begin_round`; p gives other labels from here on."""
        super().begin_round(round_, updates)
        self._labels_are_current = False

    def step(self) -> None:
        if self.label_all and not self._labels_are_current:
            labels = self._label_store()
            if self._all_labels is None:
                self._all_labels = labels
            else:
                self._all_labels.copy_(labels)
            self._labels_are_current = True
        super().step()

    def prepare(self, count: int) -> None:
        super().prepare(count)
        if self._all_labels is not None:
            self._labels = self._all_labels[self.batches.rows]
        else:
            windows = self.batches.index.transpose(0, 1).flatten(1)  # [F, count * B]
            z = [self._label(self.batches.frames, part) for part in windows.split(_LABEL_BATCH, dim=1)]
            self._labels = torch.cat(z).view(count, self.batches.batch_size, -1)

    def update(self, number: int) -> Metrics:
        z = self._labels[number]
        with self.agent.compute.autocast():
            predicted: Tensor = self.agent.policy(self._features(number)).float()
        error = cloning_loss(predicted, z)
        unexplained = error / z.var(dim=0).mean()
        loss = error
        if self._decoded_weight:
            loss = unexplained + self._decoded_weight * decoded_difference(self.agent, predicted, z)
        self.descend(loss)
        return {"loss": loss, "explained": 1 - unexplained.detach()}

    @torch.no_grad()
    def _features(self, number: int) -> Tensor:
        """f(o_t) of update `number`, [B, C, side, side], with the augmentations of the configuration."""
        config, compute = self.config, self.agent.compute
        pixels = self.batches.pixels(number, compute, shift_pad=config.shift_pad, stack_dropout=config.stack_dropout)
        with compute.autocast():
            features: Tensor = self.agent.encoder(pixels)
        return features

    def _label_store(self) -> Tensor:
        sampler = self.batches.sampler
        return torch.cat([self._label(*sampler.take(part)) for part in sampler.centers.split(_LABEL_BATCH)])

    @torch.no_grad()
    def _label(self, frames: Tensor, index: Tensor) -> Tensor:
        """z [B, latent_dim] float32 of the windows `index` [F, B]."""
        return self.agent.latent_action(self.agent.frame_features(frames, index))


def cloning_loss(predicted: Tensor, z: Tensor) -> Tensor:
    """Eq. 4: L_bc = MSE(pi(s_t), z), [], of `predicted` = pi(s_t) and the labels z = p(s), both [B, latent_dim]. The
    labels are those before quantization."""
    return F.mse_loss(predicted, z)


def decoded_difference(agent: Agent, predicted: Tensor, z: Tensor) -> Tensor:
    """Difference [] between the actions decoded from `predicted` and from z, both [B, latent_dim].

    It is the Kullback-Leibler divergence of discrete actions from those of z, or the mean squared error of continuous
    ones. Its gradient is left in d, which cloning does not train.
    """
    decoded = agent.decode(predicted)
    with torch.no_grad():
        target = agent.decode(z)
    if agent.spec.actions.continuous:
        return F.mse_loss(decoded, target)
    return F.kl_div(decoded.log_softmax(dim=1), target.softmax(dim=1), reduction="batchmean")
