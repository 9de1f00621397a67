"""Phase 1: the encoder f, by contrast of shifted frames and by reconstruction (Eq. 1), or by prototypes (Eq. 10)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.data.frames import WindowSampler
from bcvlr_fast.kernels import random_shift, sinkhorn_cross_entropy
from bcvlr_fast.methods.bcvlr.config import FeaturesConfig
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.heads import ContrastiveHeads, Heads, PrototypeHeads
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.learner import Metrics, Stage


class Features(Stage):
    """Trains f; the EMA copies of f and its projector give its loss the targets."""

    name = "features"

    def __init__(self, config: FeaturesConfig, encoder: Encoder, sampler: WindowSampler, compute: Compute) -> None:
        by_prototypes = config.objective == "prototypes"
        kind: type[Heads] = PrototypeHeads if by_prototypes else ContrastiveHeads
        heads = compute.network(kind(config, encoder))
        assert isinstance(heads, Heads)
        self.config, self.compute = config, compute
        self.encoder, self.heads = encoder, heads
        self.online = nn.ModuleList([encoder, heads.projector])
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        trained = [*encoder.parameters(), *(p for p in heads.parameters() if p.requires_grad)]
        optimizer = compute.optimizer(trained, config.learning_rate)
        super().__init__(
            config.updates,
            {"heads": heads, "target": self.target},
            {"features": optimizer},
            compute,
            sampler.generator,
            period=config.target_every,
        )
        self._next = 1 if by_prototypes else 0
        """Where the second observation of a pair lies, after the first."""
        self.batches = Batches(sampler, config.batch_size, self.together, last=self._next)

    def update(self, number: int) -> Metrics:
        anchor, positive = self._shifted(number), self._shifted(number, self._next)
        with self.compute.autocast():
            metrics = self.loss(anchor, positive)
        loss = metrics["loss"]
        optimizer = self.optimizers["features"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (number + 1) % self.config.target_every == 0:
            self._move_target()
        return metrics

    def loss(self, anchor: Tensor, positive: Tensor) -> Metrics:
        """The loss of shifted observations [B, in_channels, H, W], and its parts."""
        config = self.config
        if isinstance(self.heads, PrototypeHeads):
            loss, accuracy = prototype_loss(self.encoder, self.heads, self.target, anchor, positive, config)
            return {"loss": loss, "prototype_accuracy": accuracy}
        assert isinstance(self.heads, ContrastiveHeads)
        parts = contrastive_loss(self.encoder, self.heads, self.target, anchor, positive)
        contrast, reconstruction, accuracy = parts
        metrics = {"loss": contrast + config.reconstruction_weight * reconstruction, "contrast": contrast}
        if self.heads.pixel_decoder is not None:
            metrics["reconstruction"] = reconstruction
        return metrics | {"contrast_accuracy": accuracy}

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


def contrastive_loss(
    encoder: nn.Module, heads: ContrastiveHeads, target: nn.ModuleList, anchor: Tensor, positive: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 1: (contrast, reconstruction, share of anchors whose own positive scores highest).

    anchor, positive [B, C, H, W]: two shifts of the same frames. With a = MLP(proj(f(anchor))) and
    b = proj'(f'(positive)): mean over i of -log softmax_j(a_i W b_j)_i, no temperature; and the mean
    squared error of v(f(anchor)) against the anchor, nought where there is no v.
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
    return contrast, reconstruction, accuracy


def prototype_loss(
    encoder: nn.Module,
    heads: PrototypeHeads,
    target: nn.ModuleList,
    anchor: Tensor,
    positive: Tensor,
    config: FeaturesConfig,
) -> tuple[Tensor, Tensor]:
    """Eq. 10: (cross-entropy of soft assignments to prototypes, share of anchors whose likeliest prototype is their
    target's).

    anchor, positive [B, C, H, W]: shifted observations o_t and o_{t+1}. The assignment of MLP(proj(f(anchor))) is a
    softmax; that of proj'(f'(positive)) is balanced over the batch by Sinkhorn's scalings. Source: Proto-RL (Yarats et
    al. 2021).
    """
    with torch.no_grad():
        weight = heads.prototypes.weight
        weight.copy_(F.normalize(weight, dim=1))
        key = F.normalize(target[1](target[0](positive)).float(), dim=1)
    query = F.normalize(heads.predictor(heads.projector(encoder(anchor))).float(), dim=1)
    logits, wanted = heads.prototypes(query).float(), heads.prototypes(key).detach().float()  # [B, prototypes]
    loss = sinkhorn_cross_entropy(logits, wanted, temperature=config.temperature, iterations=config.sinkhorn_iterations)
    accuracy = (logits.argmax(dim=1) == wanted.argmax(dim=1)).float().mean().detach()
    return loss, accuracy
