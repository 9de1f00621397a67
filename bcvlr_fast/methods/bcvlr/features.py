"""Phase 1: self-supervised training of the encoder f by Eq. 1, or by the prototypes of Eq. 5 to 10."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.kernels import random_shift, sinkhorn_cross_entropy
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import FeaturesConfig
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.heads import ContrastiveHeads, Heads, PrototypeHeads
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.learner import Learner, Metrics


class Features(Learner):
    """Trains f. Exponential moving averages of f and its projector provide the targets of the loss."""

    name = "features"

    def __init__(self, config: FeaturesConfig, agent: Agent, sampler: WindowSampler) -> None:
        self.config, self.compute, self.encoder = config, agent.compute, agent.encoder
        self.heads = build_heads(config, agent.encoder)
        self.compute.network(self.heads)
        self.online = nn.ModuleList([self.encoder, self.heads.projector])
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        trained = [*self.encoder.parameters(), *(p for p in self.heads.parameters() if p.requires_grad)]
        super().__init__(
            config.updates,
            {"features": self.compute.optimizer(trained, config.learning_rate)},
            self.compute,
            sampler.generator,
            networks={"heads": self.heads, "target": self.target},
            period=config.target_every,
        )
        self._step_ahead = 1 if isinstance(self.heads, PrototypeHeads) else 0
        """Steps from the first observation of a pair to the second."""
        self.batches = Batches(sampler, config.batch_size, self.together, last=self._step_ahead)

    def update(self, number: int) -> Metrics:
        anchor, positive = self._shifted(number), self._shifted(number, self._step_ahead)
        if isinstance(self.heads, PrototypeHeads):
            self.heads.normalize_prototypes()
        with self.compute.autocast():
            metrics = self.loss(anchor, positive)
        self.descend(metrics["loss"])
        if (number + 1) % self.config.target_every == 0:
            self._move_target()
        return metrics

    def loss(self, anchor: Tensor, positive: Tensor) -> Metrics:
        """The loss of two shifted observations [B, in_channels, H, W], and its parts."""
        config = self.config
        if isinstance(self.heads, PrototypeHeads):
            loss, accuracy = prototype_loss(
                self.encoder,
                self.heads,
                self.target,
                anchor,
                positive,
                temperature=config.temperature,
                iterations=config.sinkhorn_iterations,
            )
            return {"loss": loss, "prototype_accuracy": accuracy}
        assert isinstance(self.heads, ContrastiveHeads)
        weight = config.reconstruction_weight
        parts = contrastive_loss(self.encoder, self.heads, self.target, anchor, positive, alpha=weight)
        metrics = {"loss": parts.total, "contrast": parts.contrast}
        if self.heads.pixel_decoder is not None:
            metrics["reconstruction"] = parts.reconstruction
        return metrics | {"contrast_accuracy": parts.accuracy}

    def _shifted(self, number: int, step: int = 0) -> Tensor:
        config, batches = self.config, self.batches
        offset = batches.sampler.draw_shifts(config.batch_size, config.shift_pad)
        return random_shift(
            batches.frames,
            batches.observation(number, step),
            offset,
            pad=config.shift_pad,
            mode=config.shift_mode,
            memory_format=self.compute.memory_format,
        )

    @torch.no_grad()
    def _move_target(self) -> None:
        torch._foreach_lerp_(
            list(self.target.parameters()),
            [p.detach() for p in self.online.parameters()],
            self.config.target_rate,
        )


def build_heads(config: FeaturesConfig, encoder: Encoder) -> Heads:
    """The projection heads of the chosen objective."""
    sizes = {"projection_dim": config.projection_dim, "hidden_dim": config.hidden_dim}
    if config.objective == "prototypes":
        return PrototypeHeads(encoder, **sizes, prototypes=config.prototypes)
    reconstructs = config.objective == "contrastive+reconstruction"
    return ContrastiveHeads(encoder, **sizes, reconstructs=reconstructs, train_decoder=config.train_reconstruction)


class ContrastiveLoss(NamedTuple):
    """Eq. 1 on one batch."""

    total: Tensor
    contrast: Tensor
    reconstruction: Tensor
    accuracy: Tensor
    """Fraction of anchors whose own positive has the largest logit."""


def contrastive_loss(
    encoder: nn.Module,
    heads: ContrastiveHeads,
    target: nn.ModuleList,
    anchor: Tensor,
    positive: Tensor,
    *,
    alpha: float,
) -> ContrastiveLoss:
    """Eq. 1: L_lf = -1/B sum_i log softmax_j(g_i^T W g'_j)_i + alpha * MSE(v(f(x_i)), x_i).

    x = anchor and positive [B, C, H, W] are two random shifts of the same observations; g = MLP(proj(f(anchor))) and
    g' = proj'(f'(positive)) by the averaged copies f' and proj', without gradient. As in the official code there is no
    temperature and no L2 normalization. Without a pixel decoder v the second term is zero.
    """
    features = encoder(anchor)
    query = heads.predictor(heads.projector(features))
    with torch.no_grad():
        key = target[1](target[0](positive))
    logits = (query @ heads.bilinear(key).T).float()  # [B, B]
    label = torch.arange(len(logits), device=logits.device)
    contrast = F.cross_entropy(logits, label)
    decoder = heads.pixel_decoder
    reconstruction = contrast.new_zeros(()) if decoder is None else F.mse_loss(decoder(features).float(), anchor)
    accuracy = (logits.argmax(dim=1) == label).float().mean().detach()
    return ContrastiveLoss(contrast + alpha * reconstruction, contrast, reconstruction, accuracy)


def prototype_loss(
    encoder: nn.Module,
    heads: PrototypeHeads,
    target: nn.ModuleList,
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Eq. 5 to 10: (loss, fraction of anchors whose likeliest prototype is also their target's).

    Eq. 5:  p_t = softmax(x_t^T c / T), the assignment of o_t to the prototypes c_1 .. c_M
    Eq. 6 to 9:  q_{t+1}, the assignment of o_{t+1} balanced over the batch by Sinkhorn's iterations
    Eq. 10: L_lf = -1/B sum_t q_{t+1}^T log p_t

    x = MLP(proj(f(anchor))) and y = proj'(f'(positive)) [B, D] are of shifted observations o_t and o_{t+1}
    [B, C, H, W]; x, y and the prototypes c have unit norm, as in the official code (Proto-RL, Yarats et al. 2021).
    `kernels.sinkhorn` documents Eq. 6 to 9 and how the implementation differs from the printed equations.
    """
    with torch.no_grad():
        key = F.normalize(target[1](target[0](positive)).float(), dim=1)
    query = F.normalize(heads.predictor(heads.projector(encoder(anchor))).float(), dim=1)
    logits, balanced = heads.prototypes(query).float(), heads.prototypes(key).detach().float()  # [B, M]
    loss = sinkhorn_cross_entropy(logits, balanced, temperature=temperature, iterations=iterations)
    accuracy = (logits.argmax(dim=1) == balanced.argmax(dim=1)).float().mean().detach()
    return loss, accuracy
