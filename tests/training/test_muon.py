"""Muon: equal to PyTorch's where that works, to AdamW elsewhere, and the same after a checkpoint."""

import copy

import pytest
import torch
from torch import nn

from bcvlr_fast.training.checkpoint import load_optimizer_state, optimizer_state
from bcvlr_fast.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(3, 32, 144), (1, 256, 40), (2, 16, 16)])
def test_orthogonalized_keeps_singular_vectors(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalized(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    inner = left.mT @ result @ right.mT
    new_values = inner.diagonal(dim1=1, dim2=2)
    large = values > 0.2 * values.amax(dim=1, keepdim=True)  # tiny ones need more iterations
    assert ((new_values > 0.6) & (new_values < 1.3))[large].all()
    assert (inner - torch.diag_embed(new_values)).abs().max() < 1e-3


def test_matrices_step_as_in_pytorch() -> None:
    ours, theirs = nn.Linear(24, 12, bias=False), nn.Linear(24, 12, bias=False)
    theirs.load_state_dict(ours.state_dict())
    first = ours.weight.detach().clone()
    mine = Muon(ours.parameters(), 0.02, 0.1)
    reference = torch.optim.Muon(
        theirs.parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw", ns_steps=4
    )
    for seed in range(5):
        gradient = torch.randn(12, 24, generator=torch.Generator().manual_seed(seed))
        ours.weight.grad, theirs.weight.grad = gradient, gradient.clone()
        mine.step()
        reference.step()
    moved = (theirs.weight - first).norm()
    assert (ours.weight - theirs.weight).norm() < 0.02 * moved  # PyTorch's iterations are in bfloat16


def test_a_convolution_steps_as_its_matrix() -> None:
    convolution = nn.Conv2d(3, 8, 3, bias=False).to(memory_format=torch.channels_last)
    linear = nn.Linear(27, 8, bias=False)
    linear.weight.data.copy_(convolution.weight.flatten(1))
    gradient = torch.randn(8, 3, 3, 3)
    convolution.weight.grad = gradient.to(memory_format=torch.channels_last)
    linear.weight.grad = gradient.flatten(1)
    for module in (convolution, linear):
        Muon(module.parameters(), 0.02).step()
    torch.testing.assert_close(convolution.weight.flatten(1), linear.weight)


def test_vectors_step_as_in_adamw() -> None:
    ours = [nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(()))]
    theirs = copy.deepcopy(ours)
    mine = Muon(ours, 1e-2, 0.1, eps=1e-5)
    reference = torch.optim.AdamW(theirs, 1e-2, weight_decay=0.1, eps=1e-5)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_its_state_is_saved_and_restored() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).to(memory_format=torch.channels_last)
    x = torch.randn(8, 3, 4, 4).to(memory_format=torch.channels_last)

    def step(network: nn.Module, optimizer: Muon) -> None:
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()

    optimizer = Muon(network.parameters(), 1e-2)
    step(network, optimizer)
    restored = copy.deepcopy(network)
    other = Muon(restored.parameters(), 1e-2)
    load_optimizer_state(other, copy.deepcopy(optimizer_state(optimizer)))
    for _ in range(3):
        step(network, optimizer)
        step(restored, other)
    for a, b in zip(network.parameters(), restored.parameters(), strict=True):
        assert torch.equal(a, b)


def test_parameters_without_gradient_stay() -> None:
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    Muon([weight, bias], 0.1, 0.1).step()
    assert torch.equal(weight, torch.ones(2, 2))
    assert torch.equal(bias, torch.ones(2))


def test_the_learning_rate_may_be_a_tensor_that_a_graph_reads() -> None:
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    for module, rate in ((ours, 0.02), (theirs, torch.tensor(0.02))):
        optimizer = Muon(module.parameters(), rate, 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            module(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_tiny_entries_of_dead_units_are_dropped() -> None:
    """They would decay to denormal numbers, which are slow."""
    matrix = torch.eye(4)[None] + 0
    matrix[0, 0, 1] = 1e-30
    assert orthogonalized(matrix)[0, 0, 1] == 0
