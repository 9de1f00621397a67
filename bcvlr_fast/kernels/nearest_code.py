"""nearest_code: vector quantisation against several codebooks, with EMA codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTHING = 1e-5


class NearestCode(NamedTuple):
    quantised: Tensor
    """[B, K * D * P] float32, straight-through: its gradient is that of z."""
    commitment: Tensor
    """[] float32: mean squared distance of z from its codes; differentiable in z."""
    indices: Tensor
    """[B, K, P] int64."""
    perplexity: Tensor
    """[K] float32: exp of the entropy of code use in this batch, 1 to M."""


def nearest_code(
    z: Tensor,
    codes: Tensor,
    ema_count: Tensor | None = None,
    ema_sum: Tensor | None = None,
    *,
    decay: float = 0.999,
    restart_below: float = 0.0,
) -> NearestCode:
    """Each of the P positions of z replaced by the nearest of M codes, in each of K codebooks.

    z          [B, K * D * P]: element (k * D + d) * P + p, as in LAPO; computed in float32.
    codes      [K, M, D] float32.
    ema_count  [K, M], ema_sum [K, M, D] float32: given, they and `codes` are updated in place:
               count = decay * count + (1 - decay) * uses, Laplace-smoothed; likewise the sums;
               codes = sum / count. None leaves everything as it is.
    restart_below > 0 moves a code whose count fell below it to a latent of this batch, the
    i-th dead code to the i-th latent: deterministic, no random draw.
    Raises ValueError naming the argument that is wrong. Source: van den Oord et al. 2017, A.1.
    """
    books, size, dim = _check(z, codes, ema_count, ema_sum)
    batch = z.shape[0]
    positions = z.shape[1] // (books * dim)
    split = z.float().view(batch, books, dim, positions).permute(1, 0, 3, 2)  # [K, B, P, D]
    flat = split.detach().reshape(books, batch * positions, dim)
    indices = _nearest(flat, codes)
    picked = codes.gather(1, indices[:, :, None].expand(-1, -1, dim)).view_as(split)
    commitment = F.mse_loss(split, picked)
    quantised = split + (picked - split).detach()

    one_hot = F.one_hot(indices, size).to(torch.float32)  # [K, B*P, M]
    share = one_hot.mean(dim=1)
    perplexity = torch.exp(-(share * (share + 1e-10).log()).sum(dim=1))
    if ema_count is not None and ema_sum is not None:
        _update(flat, one_hot, codes, ema_count, ema_sum, decay, restart_below)
    return NearestCode(
        quantised.permute(1, 0, 3, 2).reshape(batch, -1),
        commitment,
        indices.view(books, batch, positions).transpose(0, 1),
        perplexity,
    )


def _nearest(flat: Tensor, codes: Tensor) -> Tensor:
    with torch.autocast(flat.device.type, enabled=False):
        distance = codes.square().sum(2)[:, None, :] - 2 * torch.bmm(flat, codes.transpose(1, 2))
    return distance.argmin(dim=2)


@torch.no_grad()
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
        ema_count.lerp_(one_hot.sum(dim=1), 1 - decay)
        total = ema_count.sum(dim=1, keepdim=True)
        ema_count.add_(_SMOOTHING).mul_(total / (total + size * _SMOOTHING))
        ema_sum.lerp_(torch.bmm(one_hot.transpose(1, 2), flat), 1 - decay)
        if restart_below > 0:
            dead = (ema_count < restart_below)[:, :, None]
            turn = (dead.cumsum(dim=1) - 1).clamp_(min=0) % flat.shape[1]
            fresh = flat.gather(1, turn.expand(-1, -1, flat.shape[2]))
            ema_sum.copy_(torch.where(dead, fresh, ema_sum))
            ema_count.copy_(torch.where(dead[:, :, 0], 1.0, ema_count))
        torch.div(ema_sum, ema_count[:, :, None], out=codes)


def _check(z: Tensor, codes: Tensor, ema_count: Tensor | None, ema_sum: Tensor | None) -> tuple[int, int, int]:
    if codes.ndim != 3 or codes.dtype != torch.float32:
        raise ValueError(f"codes: expected float32 [K, M, D], got {codes.dtype} {list(codes.shape)}")
    books, size, dim = codes.shape
    if z.ndim != 2 or z.shape[1] % (books * dim):
        raise ValueError(f"z: expected [B, {books} * {dim} * P], got {list(z.shape)}")
    if (ema_count is None) != (ema_sum is None):
        raise ValueError("ema_count, ema_sum: expected both or neither")
    if ema_count is not None and ema_count.shape != (books, size):
        raise ValueError(f"ema_count: expected [{books}, {size}], got {list(ema_count.shape)}")
    if ema_sum is not None and ema_sum.shape != codes.shape:
        raise ValueError(f"ema_sum: expected {list(codes.shape)}, got {list(ema_sum.shape)}")
    return books, size, dim
