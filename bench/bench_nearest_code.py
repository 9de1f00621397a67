"""Benchmark of a codebook step with EMA, without and with backward pass: pytest bench/bench_nearest_code.py"""

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

from bcvlr_fast.kernels import nearest_code
from conftest import Compare

BOOKS, SIZE, DIM, POSITIONS, DECAY = 2, 64, 16, 4, 0.999
LATENT = BOOKS * DIM * POSITIONS


def codebook(device: torch.device) -> list[Tensor]:
    """codes, ema_count, ema_sum"""
    codes = torch.randn(BOOKS, SIZE, DIM, generator=torch.Generator().manual_seed(1)).to(device)
    return [codes, torch.ones(BOOKS, SIZE, device=device), codes.clone()]


def one_hot_step(z: Tensor, codes: Tensor, count: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The formulation of LAPO: distances by baddbmm, everything else by products with one-hot rows."""
    x = z.view(len(z), BOOKS, DIM, POSITIONS).permute(1, 0, 3, 2).flatten(1, 2)  # [K, B*P, D]
    with torch.no_grad():
        norms = codes.square().sum(2)[:, None] + x.square().sum(2, keepdim=True)
        index = torch.baddbmm(norms, x, codes.mT, alpha=-2).argmin(2)
        one_hot = F.one_hot(index, SIZE).float()
        picked = torch.bmm(one_hot, codes)
        count.mul_(DECAY).add_(one_hot.sum(1), alpha=1 - DECAY)
        n = count.sum(1, keepdim=True)
        count.copy_((count + 1e-5) / (n + SIZE * 1e-5) * n)
        total.mul_(DECAY).add_(torch.bmm(one_hot.mT, x), alpha=1 - DECAY)
        codes.copy_(total / count[:, :, None])
        share = one_hot.mean(1)
        perplexity = torch.exp(-(share * torch.log(share + 1e-10)).sum(1))
    commitment = F.mse_loss(x, picked)
    quantized = x + (picked - x).detach()
    back = quantized.view(BOOKS, len(z), POSITIONS, DIM).permute(1, 0, 3, 2).reshape(len(z), -1)
    return back, commitment, perplexity


@numba.njit(cache=False, fastmath=True)
def _numba_step(
    z: np.ndarray, codes: np.ndarray, count: np.ndarray, total: np.ndarray, quantized: np.ndarray
) -> tuple[float, np.ndarray]:
    uses = np.zeros((BOOKS, SIZE), np.float32)
    sums = np.zeros((BOOKS, SIZE, DIM), np.float32)
    error = 0.0
    distance = np.empty(SIZE, np.float32)
    for b in range(len(z)):
        for k in range(BOOKS):
            for p in range(POSITIONS):
                for m in range(SIZE):
                    distance[m] = 0
                    for d in range(DIM):
                        away = z[b, k, d, p] - codes[k, m, d]
                        distance[m] += away * away
                best = np.argmin(distance)
                error += distance[best]
                uses[k, best] += 1
                for d in range(DIM):
                    sums[k, best, d] += z[b, k, d, p]
                    quantized[b, k, d, p] = codes[k, best, d]
    rows = len(z) * POSITIONS
    perplexity = np.empty(BOOKS, np.float32)
    for k in range(BOOKS):
        entropy = 0.0
        for m in range(SIZE):
            share = uses[k, m] / rows
            entropy -= share * math.log(share + 1e-10)
            count[k, m] = DECAY * count[k, m] + (1 - DECAY) * uses[k, m]
        perplexity[k] = math.exp(entropy)
        n = count[k].sum()
        for m in range(SIZE):
            count[k, m] = (count[k, m] + 1e-5) / (n + SIZE * 1e-5) * n
            for d in range(DIM):
                total[k, m, d] = DECAY * total[k, m, d] + (1 - DECAY) * sums[k, m, d]
                codes[k, m, d] = total[k, m, d] / count[k, m]
    return error / z.size, perplexity


class _Numba(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, codes, count, total):  # type: ignore[no-untyped-def]
        quantized = torch.empty_like(z)
        shape = (len(z), BOOKS, DIM, POSITIONS)
        error, perplexity = _numba_step(
            z.numpy().reshape(shape), codes.numpy(), count.numpy(), total.numpy(), quantized.numpy().reshape(shape)
        )
        ctx.save_for_backward(z, quantized)
        return quantized, torch.tensor(error, dtype=torch.float32), torch.from_numpy(perplexity)

    @staticmethod
    def backward(ctx, quantized, commitment, _):  # type: ignore[no-untyped-def]
        z, code = ctx.saved_tensors
        return torch.addcmul(quantized, z - code, commitment * (2 / z.numel())), None, None, None


@pytest.mark.parametrize("batch", [128, 512])
@pytest.mark.parametrize("back", [False, True], ids=["step", "step and backward"])
@pytest.mark.parametrize("peer", ["eager (one-hot)", "torch.compile (one-hot)", "numba", "vector-quantize-pytorch"])
def test_nearest_code(compare: Compare, device: torch.device, peer: str, back: bool, batch: int) -> None:
    """Compares this package with a peer; each side has its own, initially equal codebook.

    With backward pass, about 60 us on both sides are autograd's own.
    """
    if peer == "numba" and device.type != "cpu":
        pytest.skip("numba's loop is for the CPU")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(batch, LATENT, generator=generator).to(device).requires_grad_(back)
    gradient = torch.randn(batch, LATENT, generator=generator).to(device)
    our_book, their_book = codebook(device), codebook(device)

    def ours() -> list[Tensor]:
        found = nearest_code(z, *our_book, decay=DECAY)
        return finish(found.quantized, found.commitment)

    def theirs() -> list[Tensor]:
        quantized, commitment, *_ = step(z, *their_book)
        return finish(quantized, commitment)

    def finish(quantized: Tensor, commitment: Tensor) -> list[Tensor]:
        if not back:
            return [quantized, commitment]
        ends = (quantized, commitment)
        return [*ends, *torch.autograd.grad(ends, z, (gradient, torch.ones_like(commitment)))]

    step: Callable[..., tuple]
    if peer == "vector-quantize-pytorch":
        step = library_step(device, their_book)
    elif peer == "numba":
        step = _Numba.apply
    else:
        step = one_hot_step if peer.startswith("eager") else torch.compile(one_hot_step, dynamic=False)
    for _ in range(2):  # the second step uses the codes that the first one updated
        torch.testing.assert_close([t.detach() for t in theirs()], [t.detach() for t in ours()], rtol=1e-4, atol=1e-5)
    compare(f"nearest_code step{' and backward' if back else ''}", f"batch {batch}", peer, ours, theirs)


def library_step(device: torch.device, book: list[Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Layer of vector-quantize-pytorch, initialized with the same codes."""
    layer = importlib.import_module("vector_quantize_pytorch").VectorQuantize(
        dim=BOOKS * DIM,
        codebook_size=SIZE,
        codebook_dim=DIM,
        heads=BOOKS,
        separate_codebook_per_head=True,
        decay=DECAY,
        commitment_weight=1.0,
        rotation_trick=False,
    )
    layer = layer.to(device).train()
    for buffer, start in zip(("embed", "cluster_size", "embed_avg"), book, strict=True):
        getattr(layer._codebook, buffer).data.copy_(start)

    def step(z: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        out, _, loss = layer(z.view(len(z), BOOKS * DIM, POSITIONS).mT)
        return out.mT.reshape(len(z), -1), loss.reshape(())

    return step
