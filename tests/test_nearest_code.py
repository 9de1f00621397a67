"""pytest tests/test_nearest_code.py: assignments, gradients and EMA against straight formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcvlr_fast.kernels import nearest_code


def element(k: int, d: int, p: int, dim: int, positions: int) -> int:
    """Where LAPO's layout keeps dimension d of position p of codebook k."""
    return (k * dim + d) * positions + p


@settings(max_examples=40, deadline=None)
@given(
    books=st.integers(1, 3),
    size=st.integers(2, 9),
    dim=st.integers(1, 5),
    positions=st.integers(1, 4),
    batch=st.integers(1, 6),
    seed=st.integers(0, 10_000),
)
def test_against_loops(books: int, size: int, dim: int, positions: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, books * dim * positions, generator=generator)
    codes = torch.randn(books, size, dim, generator=generator)
    count = torch.rand(books, size, generator=generator) + 0.5
    total = torch.randn(books, size, dim, generator=generator)
    before = (codes.clone(), count.clone(), total.clone())
    found = nearest_code(z, codes, count, total, decay=0.9)

    quantised = torch.zeros_like(z)
    uses = torch.zeros(books, size)
    sums = torch.zeros(books, size, dim)
    for b in range(batch):
        for k in range(books):
            for p in range(positions):
                cells = [element(k, d, p, dim, positions) for d in range(dim)]
                vector = z[b, cells]
                index = int((before[0][k].double() - vector.double()).square().sum(1).argmin())
                assert found.indices[b, k, p] == index
                quantised[b, cells] = before[0][k, index]
                uses[k, index] += 1
                sums[k, index] += vector
    torch.testing.assert_close(found.quantised, quantised)
    torch.testing.assert_close(found.commitment, (z - quantised).square().mean())
    share = uses / (batch * positions)
    entropy = -(share * torch.where(share > 0, share, torch.ones_like(share)).log()).sum(1)
    torch.testing.assert_close(found.perplexity, entropy.exp(), rtol=1e-4, atol=1e-4)

    expected_count = 0.9 * before[1] + 0.1 * uses
    n = expected_count.sum(1, keepdim=True)
    expected_count = (expected_count + 1e-5) / (n + size * 1e-5) * n
    expected_sum = 0.9 * before[2] + 0.1 * sums
    torch.testing.assert_close(count, expected_count)
    torch.testing.assert_close(total, expected_sum)
    torch.testing.assert_close(codes, expected_sum / expected_count[:, :, None])


def test_gradients_pass_straight_through() -> None:
    z = torch.randn(4, 24, dtype=torch.float32, requires_grad=True)
    codes = torch.randn(2, 5, 3)
    found = nearest_code(z, codes)
    weight = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((found.quantised * weight).sum(), z, retain_graph=True)
    torch.testing.assert_close(gradient, weight)
    (gradient,) = torch.autograd.grad(found.commitment, z)
    torch.testing.assert_close(gradient, 2 * (z - found.quantised).detach() / z.numel())


def test_without_ema_nothing_moves() -> None:
    codes = torch.randn(1, 4, 2)
    before = codes.clone()
    nearest_code(torch.randn(3, 4), codes)
    assert torch.equal(codes, before)


def test_dead_codes_restart_at_latents() -> None:
    torch.manual_seed(0)
    z = torch.randn(16, 4)
    codes = torch.full((1, 8, 4), 100.0)
    codes[0, 0] = 0.0
    count, total = torch.ones(1, 8), codes.clone()
    for _ in range(100):
        nearest_code(z, codes, count, total, decay=0.5, restart_below=0.05)
    use = nearest_code(z, codes).indices.unique()
    assert len(use) > 4
    assert torch.isfinite(codes).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": torch.zeros(2, 4)}, "codes: expected float32"),
        ({"z": torch.zeros(3, 7)}, r"z: expected \[B, 2 \* 3 \* P\]"),
        ({"ema_count": torch.zeros(2, 4)}, "expected both or neither"),
        ({"ema_count": torch.zeros(2, 5), "ema_sum": torch.zeros(2, 4, 3)}, r"ema_count: expected \[2, 4\]"),
        ({"ema_count": torch.zeros(2, 4), "ema_sum": torch.zeros(2, 4, 2)}, r"ema_sum: expected \[2, 4, 3\]"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"z": torch.zeros(3, 6), "codes": torch.zeros(2, 4, 3), "ema_count": None, "ema_sum": None, **change}
    with pytest.raises(ValueError, match=message):
        nearest_code(**arguments)
