"""Muon (Jordan et al. 2024): steps along the orthogonalized momentum of every weight matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adamw import adamw

_MOMENTUM = 0.95
_ADAM_BETAS = (0.9, 0.999)
_ITERATIONS = 4
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan's iteration, which takes singular values to between 0.7 and 1.2."""
_RMS = 0.2
"""Root mean square of an update over the learning rate. It is about AdamW's, so that AdamW's learning rates and weight
decays fit (Liu et al. 2025, arXiv 2502.16982)."""

_LOST = 1e-9
"""Entries below this, relative to the matrix, count as zero. They come from units that no longer learn, and decay to
denormal numbers, which take a CPU ten times as long."""


class Muon(torch.optim.Optimizer):
    """Muon for parameters with two or more dimensions, a convolution's seen as [out, in * kH * kW], AdamW for the rest.

    Weight decay is decoupled. Parameters without a gradient stay as they are. With a tensor as learning rate and
    `capturable`, a step reads nothing on the host and can be captured in a CUDA graph.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float | Tensor,
        weight_decay: float = 0.0,
        *,
        eps: float = 1e-8,
        capturable: bool = False,
    ) -> None:
        """`eps` is AdamW's."""
        all_ = list(parameters)
        groups = [[p for p in all_ if p.ndim > 1], [p for p in all_ if p.ndim <= 1]]
        defaults = {"lr": learning_rate, "weight_decay": weight_decay, "eps": eps, "capturable": capturable}
        super().__init__([{"params": group} for group in groups if group], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient; `closure` must be None."""
        assert closure is None
        for group in self.param_groups:
            learning: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in learning if p.grad is not None]
            if learning and learning[0].ndim > 1:
                self._step_matrices(learning, gradients, group)
            elif learning:
                self._step_vectors(learning, gradients, group)

    def _step_matrices(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, _MOMENTUM)  # Nesterov
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p, direction in zip(parameters, ahead, strict=True):
            alike[p.shape].append((p, direction.flatten(1)))
        for shape, members in alike.items():
            steps = orthogonalized(torch.stack([direction for _, direction in members]))
            steps = steps * (-group["lr"] * _RMS * max(steps.shape[1:]) ** 0.5)
            torch._foreach_add_([p for p, _ in members], list(steps.view(len(members), *shape)))

    def _step_vectors(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), device=p.device if group["capturable"] else None),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        kept = [self.state[p] for p in parameters]
        adamw(
            parameters,
            gradients,
            [each["exp_avg"] for each in kept],
            [each["exp_avg_sq"] for each in kept],
            [],
            [each["step"] for each in kept],
            fused=True,
            capturable=group["capturable"],
            amsgrad=False,
            beta1=_ADAM_BETAS[0],
            beta2=_ADAM_BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices [N, R, C] with about the same singular vectors and singular values near 1, by Newton-Schulz iterations.

    On a GPU they are computed in bfloat16, and the result is float32.
    """
    a, b, c = _QUINTIC
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = F.hardshrink(x, _LOST)
    if x.is_cuda:
        x = x.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()
