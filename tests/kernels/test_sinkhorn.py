"""Targets, loss and gradient of every backend, compared with float64 and the published loop."""

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from bcvlr_fast.kernels import sinkhorn, sinkhorn_cross_entropy
from helpers.backends import Backend, instruction_set, module, on_each_backend, running


def published(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """Proto-RL's loop, with prototypes in rows: normalizes the total, then alternates over rows and columns."""
    q = torch.exp((scores - scores.max()) / temperature).T
    q = q / q.sum()
    prototypes, samples = q.shape
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / prototypes
        q = q / q.sum(dim=0, keepdim=True) / samples
    return (q / q.sum(dim=0, keepdim=True)).T


def cosines(batch: int, size: int, seed: int) -> Tensor:
    return torch.rand(batch, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def near(backend: Backend) -> float:
    """Relative tolerance.

    It is larger where the rounding of the exponent score / T, 6e-8 / T, is not corrected: in the reference, which has
    no correction, and in the interpreter, whose fma rounds twice.
    """
    return 3e-6 if backend.name == "reference" or backend.interpreted else 1e-6


shapes = on_each_backend(
    25,
    batch=st.integers(1, 90),
    size=st.integers(1, 70),
    temperature=st.sampled_from([0.025, 0.1, 0.37, 1.0]),
    iterations=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)


def stretched(backend: Backend, temperature: float) -> float:
    """The tolerance at `temperature`: below 0.1 the last bit of a score weighs proportionally more."""
    return near(backend) * max(1.0, 0.1 / temperature)


@shapes
def test_targets(backend: Backend, batch: int, size: int, temperature: float, iterations: int, seed: int) -> None:
    scores = cosines(batch, size, seed)
    actual = sinkhorn(scores.to(backend.device), temperature=temperature, iterations=iterations)
    expected = published(scores.double(), temperature, iterations)
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=stretched(backend, temperature), atol=0)


@shapes
def test_cross_entropy(backend: Backend, batch: int, size: int, temperature: float, iterations: int, seed: int) -> None:
    scores, logits = cosines(batch, size, seed), cosines(batch, size, seed + 1)
    exact = logits.double().requires_grad_()
    targets = published(scores.double(), temperature, iterations)
    expected = -(targets * torch.log_softmax(exact / temperature, 1)).sum(1).mean()
    (expected_gradient,) = torch.autograd.grad(expected, exact)

    logits = logits.to(backend.device).requires_grad_()
    scores = scores.to(backend.device).requires_grad_()
    actual = sinkhorn_cross_entropy(logits, scores, temperature=temperature, iterations=iterations)
    (gradient,) = torch.autograd.grad(actual, logits)
    tolerance = stretched(backend, temperature)
    torch.testing.assert_close(actual.detach().cpu().double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        gradient.cpu().double(), expected_gradient, rtol=tolerance, atol=tolerance / (batch * temperature)
    )


def test_paper_shape(backend: Backend) -> None:
    """512 samples and 512 prototypes, or a quarter of the samples in the interpreter."""
    batch = 128 if backend.interpreted else 512
    scores, logits = cosines(batch, 512, 0), cosines(batch, 512, 1)
    expected = published(scores.double(), 0.1, 3)
    torch.testing.assert_close(sinkhorn(scores.to(backend.device)).cpu().double(), expected, rtol=near(backend), atol=0)
    loss = sinkhorn_cross_entropy(logits.to(backend.device), scores.to(backend.device))
    exact = -(expected * torch.log_softmax(logits.double() / 0.1, 1)).sum(1).mean()
    torch.testing.assert_close(loss.cpu().double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("batch", "size"), [(1100, 24), (5, 1300), (2, 2500)])
def test_many_samples_or_prototypes(backend: Backend, batch: int, size: int) -> None:
    """More partial sums than one Triton program adds up, and rows longer than a tile."""
    scores = cosines(batch, size, 3)
    actual = sinkhorn(scores.to(backend.device)).cpu()
    torch.testing.assert_close(actual.double(), published(scores.double(), 0.1, 3), rtol=near(backend), atol=0)
    logits = cosines(batch, size, 4)
    loss = sinkhorn_cross_entropy(logits.to(backend.device), scores.to(backend.device)).cpu()
    exact = -(published(scores.double(), 0.1, 3) * torch.log_softmax(logits.double() / 0.1, 1)).sum(1).mean()
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)


def test_gradient_is_a_derivative() -> None:
    """Compares the gradient of the reference with finite differences in float64."""
    reference = module("sinkhorn").reference_cross_entropy
    scores, logits = cosines(6, 5, 0).double(), cosines(6, 5, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reference(x, scores, 0.1, 3)[0], logits)
    loss, gradient = reference(logits, scores, 0.1, 3)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, logits)[0])


def test_gradient_is_scaled(backend: Backend) -> None:
    scores, logits = cosines(7, 9, 0).to(backend.device), cosines(7, 9, 1).to(backend.device).requires_grad_()
    (one,) = torch.autograd.grad(sinkhorn_cross_entropy(logits, scores), logits)
    (three,) = torch.autograd.grad(3 * sinkhorn_cross_entropy(logits, scores), logits)
    torch.testing.assert_close(three, 3 * one)
    loss = sinkhorn_cross_entropy(logits, scores)
    for _ in range(2):  # a retained graph gives the same gradient again
        (again,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert torch.equal(again, one)


@pytest.mark.parametrize("value", [2.0, -3.0, 12.0, -200.0, float("inf"), float("nan")])
def test_out_of_range_is_nan(backend: Backend, value: float) -> None:
    """Scores and logits that are not normalized give NaN instead of training silently."""
    for size, place in ((20, (1, 2)), (37, (5, 36))):
        good = cosines(7, size, 0).to(backend.device)
        wrong = good.clone()
        wrong[place] = value
        assert sinkhorn(wrong).isnan().any()
        assert sinkhorn_cross_entropy(wrong, good).isnan()
        assert sinkhorn_cross_entropy(good, wrong).isnan()
        assert sinkhorn_cross_entropy(good, good).isfinite()


def test_no_gradient_for_scores(backend: Backend) -> None:
    scores = cosines(7, 9, 0).to(backend.device).requires_grad_()
    assert not sinkhorn(scores).requires_grad
    assert not sinkhorn_cross_entropy(cosines(7, 9, 1).to(backend.device), scores).requires_grad


def test_bfloat16_is_converted(backend: Backend) -> None:
    scores = cosines(7, 9, 0).to(backend.device).bfloat16()
    logits = cosines(7, 9, 1).to(backend.device).bfloat16().requires_grad_()
    assert torch.equal(sinkhorn(scores), sinkhorn(scores.float()))
    sinkhorn_cross_entropy(logits, scores).backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


@pytest.mark.usefixtures("threads")
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    scores, logits = cosines(515, 77, 0), cosines(515, 77, 1).requires_grad_()
    results = []
    with running("cpp"):
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            loss = sinkhorn_cross_entropy(logits, scores)
            results.append((sinkhorn(scores), loss.detach(), torch.autograd.grad(loss, logits)[0]))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("isa", [0, 1, 2])
def test_every_instruction_set(isa: int) -> None:
    with instruction_set(isa):
        for batch, size in ((64, 64), (33, 37), (5, 3)):
            scores = cosines(batch, size, isa)
            expected = published(scores.double(), 0.1, 3)
            torch.testing.assert_close(sinkhorn(scores).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scores": torch.zeros(3)},
            r"scores: expected float32 or bfloat16 \[B, M\], not empty, got torch.float32 \[3\]",
        ),
        ({"scores": torch.zeros(0, 3)}, r"scores: .* got torch.float32 \[0, 3\]"),
        ({"scores": torch.zeros(4, 3).double()}, "scores: expected float32"),
        (
            {"logits": torch.zeros(4, 4)},
            r"logits: expected float32 or bfloat16 \[4, 3\] on cpu as scores, got .* \[4, 4\] on cpu",
        ),
        ({"logits": torch.zeros(4, 3, device="meta")}, "logits: expected .* on meta"),
        ({"temperature": 0.01}, "temperature: expected >= 0.025, got 0.01"),
        ({"temperature": float("nan")}, "temperature: expected >= 0.025, got nan"),
        ({"iterations": 0}, "iterations: expected >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"logits": torch.zeros(4, 3), "scores": torch.zeros(4, 3), **change}
    with pytest.raises(ValueError, match=message):
        sinkhorn_cross_entropy(**arguments)
