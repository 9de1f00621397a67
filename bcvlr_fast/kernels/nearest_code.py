"""nearest_code: vector quantization against several codebooks, with EMA codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bcvlr_fast.kernels import native
from bcvlr_fast.kernels.operation import changed, register, triton

_SMOOTHING = 1e-5


class NearestCode(NamedTuple):
    """Result of `nearest_code`."""

    quantized: Tensor
    """[B, K * D * P] float32, straight-through: its gradient passes to z unchanged."""
    commitment: Tensor
    """[] float32: mean over elements of the squared error between z and its codes; differentiable in z."""
    indices: Tensor
    """[B, K, P] int64."""
    perplexity: Tensor
    """[K] float32, 1 to M: exp of the entropy of code usage in this batch."""


def nearest_code(
    z: Tensor,
    codes: Tensor,
    ema_count: Tensor | None = None,
    ema_sum: Tensor | None = None,
    *,
    decay: float = 0.999,
    restart_below: float = 0.0,
) -> NearestCode:
    """Replaces each of the P positions of z by the nearest of M codes, in each of K codebooks.

    z          [B, K * D * P], B >= 1: element (k * D + d) * P + p, as in LAPO; computed in float32.
    codes      [K, M, D] float32. Ties go to the lowest index.
    ema_count  [K, M], ema_sum [K, M, D] float32: if given, both and `codes` are updated in place:
               count = decay * count + (1 - decay) * uses, Laplace-smoothed; likewise the sums;
               codes = sum / count. None updates nothing.
    restart_below > 0 moves every code whose count was zero or fell below it to a latent of this batch
    (the i-th such code to the i-th latent) and sets its count to one, without a random draw.
    Without it, counts that start at zero (LAPO) make the first update divide the initial sums by
    counts near zero, so that codes diverge; with it, all codes start at latents.

    Raises ValueError naming the invalid argument. Source: van den Oord et al. 2017, A.1.
    """
    _check(z, codes, ema_count, ema_sum, decay, restart_below)
    z = z.float()
    if not z.is_contiguous():
        z = z.contiguous()
    outputs = _StraightThrough.apply(z, codes, ema_count, ema_sum, decay, restart_below)  # type: ignore[no-untyped-call]
    return NearestCode(*outputs)


class _StraightThrough(torch.autograd.Function):
    """The gradient of quantized passes to z unchanged; commitment adds 2 (z - quantized) / numel."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        z: Tensor,
        codes: Tensor,
        ema_count: Tensor | None,
        ema_sum: Tensor | None,
        decay: float,
        restart_below: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if ema_count is None or ema_sum is None:
            outputs = _lookup(z, codes)
        else:
            outputs = _lookup_and_update(z, codes, ema_count, ema_sum, decay, restart_below)
            changed(codes, ema_count, ema_sum)
        quantized, commitment, indices, perplexity = outputs
        ctx.save_for_backward(z, quantized)
        ctx.mark_non_differentiable(indices, perplexity)
        return quantized, commitment, indices, perplexity

    @staticmethod
    @once_differentiable
    def backward(
        ctx: torch.autograd.function.BackwardCFunction, quantized: Tensor, commitment: Tensor, *_: Tensor
    ) -> tuple[Tensor, None, None, None, None, None]:
        return _backward(*ctx.saved_tensors, quantized.contiguous(), commitment), None, None, None, None, None


Outputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""quantized, commitment, indices, perplexity."""


def _cpu(
    z: Tensor,
    codes: Tensor,
    ema_count: Tensor | None = None,
    ema_sum: Tensor | None = None,
    decay: float = 0.0,
    restart_below: float = 0.0,
) -> Outputs:
    return (_cpp if native.library() else reference)(z, codes, ema_count, ema_sum, decay, restart_below)


def _cpp(
    z: Tensor, codes: Tensor, ema_count: Tensor | None, ema_sum: Tensor | None, decay: float, restart_below: float
) -> Outputs:
    books, size, dim = codes.shape
    quantized, commitment, indices, perplexity = empty_outputs(z, codes)
    native.call(
        "bcvlr_nearest_code",
        *(z, codes, ema_count, ema_sum, quantized, indices, commitment, perplexity),
        *(len(z), books, size, dim, indices.shape[2], decay, restart_below),
    )
    return quantized, commitment, indices, perplexity


def _backward_cpu(z: Tensor, quantized: Tensor, quantized_gradient: Tensor, commitment_gradient: Tensor) -> Tensor:
    if not native.library():
        return reference_backward(z, quantized, quantized_gradient, commitment_gradient)
    out = torch.empty_like(z)
    native.call(
        "bcvlr_nearest_code_backward",
        *(z, quantized, quantized_gradient, commitment_gradient, out),
        z.numel(),
    )
    return out


def empty_outputs(z: Tensor, codes: Tensor) -> Outputs:
    books, _, dim = codes.shape
    indices = torch.empty((len(z), books, z.shape[1] // (books * dim)), dtype=torch.int64, device=z.device)
    return torch.empty_like(z), z.new_empty(()), indices, z.new_empty(books)


_RESULT = "(Tensor quantized, Tensor commitment, Tensor indices, Tensor perplexity)"
_lookup = register(f"nearest_code(Tensor z, Tensor codes) -> {_RESULT}", _cpu, triton("nearest_code"), empty_outputs)
_lookup_and_update = register(
    "nearest_code_update(Tensor z, Tensor(a!) codes, Tensor(b!) ema_count, Tensor(c!) ema_sum, float decay, "
    f"float restart_below) -> {_RESULT}",
    _cpu,
    triton("nearest_code"),
    lambda z, codes, *_: empty_outputs(z, codes),
)

_backward = register(
    "nearest_code_backward(Tensor z, Tensor quantized, Tensor quantized_gradient, Tensor commitment_gradient)"
    " -> Tensor",
    _backward_cpu,
    triton("nearest_code.nearest_code_backward"),
    lambda z, *_: torch.empty_like(z),
)


def reference(
    z: Tensor, codes: Tensor, ema_count: Tensor | None, ema_sum: Tensor | None, decay: float, restart_below: float
) -> Outputs:
    """The operation in plain PyTorch, in the dtype of z."""
    books, size, dim = codes.shape
    batch, positions = len(z), z.shape[1] // (books * dim)
    split = z.view(batch, books, dim, positions).permute(1, 0, 3, 2)  # [K, B, P, D]
    flat = split.reshape(books, batch * positions, dim)
    with torch.autocast(z.device.type, enabled=False):
        distance = codes.square().sum(2)[:, None, :] - 2 * torch.bmm(flat, codes.transpose(1, 2))
    indices = distance.argmin(dim=2)  # [K, B*P]
    picked = codes.gather(1, indices[:, :, None].expand(-1, -1, dim)).view_as(split)
    commitment = F.mse_loss(split, picked)
    one_hot = F.one_hot(indices, size).to(z.dtype)  # [K, B*P, M]
    share = one_hot.mean(dim=1)
    perplexity = torch.exp(-(share * (share + 1e-10).log()).sum(dim=1))
    if ema_count is not None and ema_sum is not None:
        _update(flat, one_hot, codes, ema_count, ema_sum, decay, restart_below)
    return (
        picked.permute(1, 0, 3, 2).reshape(batch, -1),
        commitment,
        indices.view(books, batch, positions).transpose(0, 1).contiguous(),
        perplexity,
    )


def reference_backward(z: Tensor, quantized: Tensor, quantized_gradient: Tensor, commitment_gradient: Tensor) -> Tensor:
    """The gradient of z in plain PyTorch."""
    return torch.addcmul(quantized_gradient, z - quantized, commitment_gradient * (2 / z.numel()))


def _update(
    flat: Tensor,
    one_hot: Tensor,
    codes: Tensor,
    ema_count: Tensor,
    ema_sum: Tensor,
    decay: float,
    restart_below: float,
) -> None:
    size = codes.shape[1]
    with torch.autocast(flat.device.type, enabled=False):
        unused = ema_count == 0
        ema_count.lerp_(one_hot.sum(dim=1), 1 - decay)
        total = ema_count.sum(dim=1, keepdim=True)
        ema_count.add_(_SMOOTHING).mul_(total / (total + size * _SMOOTHING))
        ema_sum.lerp_(torch.bmm(one_hot.transpose(1, 2), flat), 1 - decay)
        if restart_below > 0:
            dead = (unused | (ema_count < restart_below))[:, :, None]
            turn = (dead.cumsum(dim=1) - 1).clamp_(min=0) % flat.shape[1]
            fresh = flat.gather(1, turn.expand(-1, -1, flat.shape[2]))
            ema_sum.copy_(torch.where(dead, fresh, ema_sum))
            ema_count.copy_(torch.where(dead[:, :, 0], 1.0, ema_count))
        torch.div(ema_sum, ema_count[:, :, None], out=codes)


def _check(
    z: Tensor, codes: Tensor, ema_count: Tensor | None, ema_sum: Tensor | None, decay: float, restart_below: float
) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: expected 0 to 1, got {decay}")
    if not restart_below >= 0:
        raise ValueError(f"restart_below: expected >= 0, got {restart_below}")
    if codes.ndim != 3 or codes.dtype != torch.float32 or 0 in codes.shape or not codes.is_contiguous():
        raise ValueError(f"codes: expected contiguous float32 [K, M, D], got {codes.dtype} {list(codes.shape)}")
    books, size, dim = codes.shape
    if z.ndim != 2 or 0 in z.shape or z.shape[1] % (books * dim) or not z.is_floating_point():
        raise ValueError(f"z: expected float [B, {books} * {dim} * P], not empty, got {z.dtype} {list(z.shape)}")
    if (ema_count is None) != (ema_sum is None):
        raise ValueError("ema_count, ema_sum: expected both or neither")
    for name, tensor, shape in (
        ("ema_count", ema_count, (books, size)),
        ("ema_sum", ema_sum, (books, size, dim)),
    ):
        if tensor is None:
            continue
        if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(
                f"{name}: expected contiguous float32 {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
            )
    for name, tensor in (("codes", codes), ("ema_count", ema_count), ("ema_sum", ema_sum)):
        if tensor is not None and tensor.device != z.device:
            raise ValueError(f"{name}: expected on {z.device} as z, got {list(tensor.shape)} on {tensor.device}")
