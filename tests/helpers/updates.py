"""Helpers for the tests of updates."""

import torch
from torch import Tensor, nn

from bcvlr_fast.data.sampling import WindowSampler


def drawn_rows(sampler: WindowSampler, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(1 << 62, shape, generator=generator) % len(sampler.centers)


def assert_moved_alike(actual: nn.Module, expected: nn.Module, noise: float = 1e-4) -> None:
    """Asserts equal gradients to 1e-4 of their norm, and equal weights wherever the gradient is not rounding noise.

    In the paper's networks rounding more often decides which of two pixels a max-pool takes, or on which side of zero
    the input of a ReLU lies: pass a `noise` of 1e-2 for them (they differ by 2e-3). Adam's first step is
    lr * sign(gradient). Where the gradient vanishes (biases before a batch norm) its sign is random, so the weights
    there may differ by two steps.
    """
    compared = total = 0
    largest = max(float(p.grad.norm()) for p in expected.parameters() if p.grad is not None)
    for (name, a), b in zip(actual.named_parameters(), expected.parameters(), strict=True):
        if b.grad is None:
            assert torch.equal(a, b), name
            continue
        assert a.grad is not None, name
        assert float((a.grad - b.grad).norm()) <= noise * (float(b.grad.norm()) + 1e-2 * largest), name
        clear = b.grad.abs() > noise / 10 * largest
        torch.testing.assert_close(a[clear], b[clear], rtol=1e-4, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")
        compared, total = compared + int(clear.sum()), total + clear.numel()
    assert compared > min(0.05 * total, 1000)  # enough weights to detect a wrong step
