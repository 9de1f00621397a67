"""Benchmark of sinkhorn targets and cross-entropy, 512 samples on 512 prototypes: pytest bench/bench_sinkhorn.py"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bcvlr_fast.kernels import sinkhorn, sinkhorn_cross_entropy
from conftest import Compare

SIZE, DIM, T, ITERATIONS = 512, 128, 0.1, 3


def without_infinities(x: Tensor) -> Tensor:
    """Replaces infinite entries by the largest finite one, which synchronizes with the host."""
    largest = x[torch.isfinite(x)].max().item()
    return x.masked_fill_(torch.isinf(x), largest)


def published(scores: Tensor) -> Tensor:
    """The loop of Proto-RL and BCV-LR: subtracts the maximum, then scales prototypes (rows) and samples in turn."""
    x = scores / T
    q = without_infinities(torch.exp(x.sub_(x.max())).T)
    q /= q.sum()
    prototypes, samples = q.shape
    rows = torch.full((prototypes,), 1 / prototypes, device=q.device)
    columns = torch.full((samples,), 1 / samples, device=q.device)
    for _ in range(ITERATIONS):
        q *= without_infinities(rows / q.sum(dim=1))[:, None]
        q *= (columns / q.sum(dim=0))[None, :]
    return (q / q.sum(dim=0, keepdim=True)).T


def scaled(scores: Tensor) -> Tensor:
    """The plain eager form: two vectors of scalings."""
    k = torch.exp((scores - 1) / T)
    u = torch.ones_like(k[:, :1])
    for _ in range(ITERATIONS):
        v = 1 / (k * u).sum(dim=0, keepdim=True)
        u = 1 / (k * v).sum(dim=1, keepdim=True)
    return u * k * v


@numba.njit(cache=False, fastmath=True)
def _numba_scale(scores: np.ndarray, k: np.ndarray) -> None:
    batch, size = scores.shape
    u = np.ones(batch, np.float32)
    v = np.empty(size, np.float32)
    for b in range(batch):
        for m in range(size):
            k[b, m] = math.exp((scores[b, m] - np.float32(1)) * np.float32(1 / T))
    for _ in range(ITERATIONS):
        v[:] = 0
        for b in range(batch):
            for m in range(size):
                v[m] += k[b, m] * u[b]
        v = np.float32(1) / v
        for b in range(batch):
            total = np.float32(0)
            for m in range(size):
                total += k[b, m] * v[m]
            u[b] = np.float32(1) / total
    for b in range(batch):
        for m in range(size):
            k[b, m] *= u[b] * v[m]


def by_numba(scores: Tensor) -> Tensor:
    out = torch.empty_like(scores)
    _numba_scale(scores.numpy(), out.numpy())
    return out


def by_pot(scores: Tensor) -> Tensor:
    """POT's Sinkhorn on the cost -score; its error criterion does not stop it before the requested iterations."""
    solve = importlib.import_module("ot.bregman").sinkhorn_knopp
    share = torch.full((SIZE,), 1 / SIZE, device=scores.device)
    plan = solve(share, share, 1 - scores, T, numItermax=ITERATIONS, stopThr=0, warn=False)
    return plan / plan.sum(dim=1, keepdim=True)


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "published loop": published,
    "eager (scalings)": scaled,
    "torch.compile (scalings)": torch.compile(scaled, dynamic=False),
    "numba": by_numba,
    "POT": by_pot,
}


def pair(device: torch.device) -> tuple[Tensor, Tensor]:
    """Scores and logits: cosines of two views with the prototypes."""
    generator = torch.Generator().manual_seed(0)
    one, two, prototypes = (F.normalize(torch.randn(SIZE, DIM, generator=generator), dim=1) for _ in range(3))
    return (one @ prototypes.T).to(device), (two @ prototypes.T).to(device)


def skip(peer: str, device: torch.device) -> None:
    if peer == "numba" and device.type != "cpu":
        pytest.skip("numba's loop is for the CPU")
    if peer == "POT":
        pytest.importorskip("ot")


@pytest.mark.parametrize("peer", TARGETS)
def test_targets(compare: Compare, device: torch.device, peer: str) -> None:
    """Compares the targets."""
    skip(peer, device)
    scores, _ = pair(device)
    function = TARGETS[peer]
    torch.testing.assert_close(function(scores), sinkhorn(scores), rtol=1e-4, atol=1e-7)
    compare("sinkhorn", "512 x 512", peer, lambda: sinkhorn(scores), lambda: function(scores))


def cross_entropy(targets: Callable[[Tensor], Tensor], logits: Tensor, scores: Tensor) -> Tensor:
    with torch.no_grad():
        q = targets(scores)
    return -(q * torch.log_softmax(logits / T, dim=1)).sum(dim=1).mean()


@pytest.mark.parametrize("peer", ["published loop", "eager (scalings)", "torch.compile (scalings)"])
def test_cross_entropy(compare: Compare, device: torch.device, peer: str) -> None:
    """Compares targets, loss, and the gradient of the logits."""
    scores, logits = pair(device)
    logits.requires_grad_()
    loss = cross_entropy
    if peer.startswith("torch.compile"):
        loss = torch.compile(cross_entropy, dynamic=False)
    targets = published if peer == "published loop" else scaled

    def theirs() -> tuple[Tensor, Tensor]:
        value = loss(targets, logits, scores)
        return value, torch.autograd.grad(value, logits)[0]

    def ours() -> tuple[Tensor, Tensor]:
        value = sinkhorn_cross_entropy(logits, scores)
        return value, torch.autograd.grad(value, logits)[0]

    torch.testing.assert_close([t.detach() for t in theirs()], [t.detach() for t in ours()], rtol=1e-4, atol=1e-7)
    compare("sinkhorn cross-entropy", "512 x 512, with backward", peer, ours, theirs)
