"""sinkhorn: soft targets that use every prototype equally, and the cross-entropy against them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling

from bcvlr_fast.kernels import native
from bcvlr_fast.kernels.operation import register, triton

_DTYPES = (torch.float32, torch.bfloat16)
_MIN_TEMPERATURE = 1 / 40  # exp(+-1 / T) times batch and size fits in float32


def sinkhorn(scores: Tensor, *, temperature: float = 0.1, iterations: int = 3) -> Tensor:
    """Soft assignment of B samples to M prototypes by alternating scalings of K = exp(scores / temperature).

    scores       [B, M] float32 (bfloat16 is converted), cosines in -1 to 1, so that the maximum need not be subtracted.
                 A magnitude of two or more makes the result NaN.
    temperature  >= 1/40.
    iterations   >= 1 pairs of scalings: columns to equal sums, then rows.
    Returns [B, M] float32 with rows that sum to one and without a gradient.

    Eq. 6:  K = exp(scores / temperature), u = 1
    Eq. 7:  v_m = (B / M) / sum_i K_im u_i, so that every prototype has the same sum over the batch
    Eq. 8:  u_i = 1 / sum_m K_im v_m, so that every sample sums to one; Eq. 7 and 8 repeat `iterations` times
    Eq. 9:  target_im = u_i K_im v_m

    The paper prints Eq. 6 to 9 without the exponent, the temperature and the normalization; these follow its code.
    Raises ValueError naming the invalid argument. Source: Caron et al. 2020 (SwAV); equal to the
    loop of Proto-RL, whose other factors cancel.
    """
    _check(scores, temperature, iterations)
    return _targets(scores.detach().float().contiguous(), temperature, iterations)


def sinkhorn_cross_entropy(logits: Tensor, scores: Tensor, *, temperature: float = 0.1, iterations: int = 3) -> Tensor:
    """Cross-entropy of softmax(logits / temperature) against the Sinkhorn targets of `scores`.

    logits, scores  [B, M] float32 (bfloat16 is converted), -1 to 1; temperature and iterations as in `sinkhorn`.
    Eq. 10: returns [] float32, -mean_i sum_m target_im log softmax(logits / T)_im. Its gradient in logits is
    (softmax(logits / T) - target) / (T B), computed in the same pass; scores get no gradient.
    Raises ValueError naming the invalid argument. Source: Proto-RL, the prototype loss.
    """
    _check(scores, temperature, iterations)
    if logits.shape != scores.shape or logits.device != scores.device or logits.dtype not in _DTYPES:
        raise ValueError(
            f"logits: expected float32 or bfloat16 {list(scores.shape)} on {scores.device} as scores, "
            f"got {logits.dtype} {list(logits.shape)} on {logits.device}"
        )
    return _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits.float().contiguous(), scores.detach().float().contiguous(), temperature, iterations
    )


def _targets_cpu(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    if not native.library():
        return reference(scores, temperature, iterations)
    out = torch.empty_like(scores)
    native.call("bcvlr_sinkhorn", scores, None, out, None, *scores.shape, iterations, temperature)
    return out


def _loss_cpu(logits: Tensor, scores: Tensor, temperature: float, iterations: int) -> tuple[Tensor, Tensor]:
    if not native.library():
        return reference_cross_entropy(logits, scores, temperature, iterations)
    loss, gradient = scores.new_empty(()), torch.empty_like(scores)
    native.call("bcvlr_sinkhorn", scores, logits, gradient, loss, *scores.shape, iterations, temperature)
    return loss, gradient


_targets = register(
    "sinkhorn(Tensor scores, float temperature, int iterations) -> Tensor",
    _targets_cpu,
    triton("sinkhorn"),
    lambda scores, *_: torch.empty_like(scores),
)
_loss = register(
    "sinkhorn_cross_entropy(Tensor logits, Tensor scores, float temperature, int iterations)"
    " -> (Tensor loss, Tensor gradient)",
    _loss_cpu,
    triton("sinkhorn.sinkhorn_cross_entropy"),
    lambda logits, *_: (logits.new_empty(()), torch.empty_like(logits)),
)


class _CrossEntropy(torch.autograd.Function):
    """The loss; its forward pass also computes the gradient."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, logits: Tensor, scores: Tensor, temperature: float, iterations: int
    ) -> Tensor:
        loss, gradient = _loss(logits, scores, temperature, iterations)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.BackwardCFunction, loss: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        if loss.is_cpu and not is_compiling() and loss.item() == 1:
            return gradient, None, None, None  # nothing to scale if the loss itself is differentiated
        return gradient * loss, None, None, None


def reference(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """The targets in plain PyTorch, in the precision of the scores."""
    kernel = torch.exp(_in_range(scores) / temperature)  # [B, M]
    rows = torch.ones_like(kernel[:, :1])
    share = len(kernel) / kernel.shape[1]
    for _ in range(iterations):
        columns = share / (kernel * rows).sum(dim=0, keepdim=True)
        rows = 1 / (kernel * columns).sum(dim=1, keepdim=True)
    return rows * kernel * columns


def reference_cross_entropy(
    logits: Tensor, scores: Tensor, temperature: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """(loss, gradient of the logits) in plain PyTorch, in the precision of the inputs."""
    targets = reference(scores, temperature, iterations)
    log_softmax = torch.log_softmax(_in_range(logits) / temperature, dim=1)
    loss = -(targets * log_softmax).sum(dim=1).mean()
    return loss, (log_softmax.exp() - targets) / (temperature * len(logits))


def _in_range(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 2, x, torch.nan)


def _check(scores: Tensor, temperature: float, iterations: int) -> None:
    if scores.ndim != 2 or scores.dtype not in _DTYPES or 0 in scores.shape:
        raise ValueError(
            f"scores: expected float32 or bfloat16 [B, M], not empty, got {scores.dtype} {list(scores.shape)}"
        )
    if not temperature >= _MIN_TEMPERATURE:
        raise ValueError(f"temperature: expected >= {_MIN_TEMPERATURE}, got {temperature}")
    if iterations < 1:
        raise ValueError(f"iterations: expected >= 1, got {iterations}")
