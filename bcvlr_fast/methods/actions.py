"""How well decoded actions match true ones: the loss, and what is reported beside it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def action_loss(decoded: Tensor, actions: Tensor) -> Tensor:
    """[]: the cross-entropy of logits [B, A] for actions [B] int64, or the mean squared error of values [B, A] for
    actions [B, A] float32."""
    return (F.mse_loss if actions.is_floating_point() else F.cross_entropy)(decoded, actions)


def agreement(decoded: Tensor, actions: Tensor) -> Tensor:
    """[]: the accuracy of logits [B, A] for actions [B] int64, or the fraction of the variance of actions [B, A]
    float32 that values [B, A] explain."""
    if actions.is_floating_point():
        return variance_explained(decoded, actions)
    return (decoded.argmax(dim=1) == actions).float().mean()


def agreement_name(continuous: bool) -> str:
    """The name of what `agreement` measures for continuous or discrete actions."""
    return "variance_explained" if continuous else "accuracy"


def variance_explained(guess: Tensor, truth: Tensor) -> Tensor:
    """[]: the fraction of the variance of truth [B, A] that guess [B, A] explains."""
    return 1 - F.mse_loss(guess, truth) / truth.var(dim=0).mean()
