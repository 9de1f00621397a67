"""Benchmark of IMPALA blocks in bf16, forward and backward, against oneDNN: pytest bench/bench_convolution.py"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bcvlr_fast.kernels import conv_pool, convolution, native, residual_block
from bcvlr_fast.kernels.convolution import reference_block, reference_pool
from conftest import Compare

BLOCKS = {"16 channels, 16x16": (16, 16), "32 channels, 8x8": (32, 8), "32 channels, 4x4": (32, 4)}
BLOCKS |= {"16 channels, 64x64": (16, 64), "64 channels, 32x32": (64, 32)}
POOLS = {"80 to 16 channels, 32x32": (80, 16, 32, False), "16 to 32 channels, 16x16": (16, 32, 16, True)}
PEERS = ["eager", "torch.compile"]
Operation = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selects the C++ kernels even on a CPU with AMX, where both sides would run torch."""
    monkeypatch.setattr(convolution, "_has_amx", lambda: False)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", BLOCKS)
def test_residual_block(compare: Compare, device: torch.device, case: str, peer: str) -> None:
    channels, side = BLOCKS[case]
    parameters = [*_layer(channels, channels), *_layer(channels, channels)]
    x = _images(128 if side < 64 else 32, channels, side).requires_grad_()
    _compare(compare, device, "residual_block", case, peer, residual_block, reference_block, x, parameters)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", POOLS)
def test_conv_pool(compare: Compare, device: torch.device, case: str, peer: str) -> None:
    """The input of the first case is data, without a gradient."""
    channels, out, side, learned = POOLS[case]
    x = _images(128, channels, side).requires_grad_(learned)
    _compare(compare, device, "conv_pool", case, peer, conv_pool, reference_pool, x, _layer(channels, out))


def _images(batch: int, channels: int, side: int) -> Tensor:
    return torch.randn(batch, channels, side, side).bfloat16().to(memory_format=torch.channels_last)


def _layer(channels: int, out: int) -> list[Tensor]:
    weight = torch.randn(out, channels, 3, 3) / (9 * channels) ** 0.5
    return [weight.to(memory_format=torch.channels_last).requires_grad_(), torch.randn(out).requires_grad_()]


def _compare(
    compare: Compare,
    device: torch.device,
    operation: str,
    case: str,
    peer: str,
    ours: Operation,
    plain: Operation,
    x: Tensor,
    parameters: list[Tensor],
) -> None:
    """Compares both sides with backward pass under autocast; they differ only by bf16 rounding."""
    if device.type != "cpu" or not native.has_bf16():
        pytest.skip("the C++ kernels need AVX512-BF16")
    theirs = torch.compile(plain, dynamic=False) if peer == "torch.compile" else plain
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        gradient = torch.randn_like(ours(x, *parameters))

    def step(operation: Operation) -> list[Tensor]:
        for tensor in (x, *parameters):
            tensor.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            out = operation(x, *parameters)
        out.backward(gradient)
        return [out, *(tensor.grad for tensor in (x, *parameters) if tensor.grad is not None)]

    for actual, expected in zip(step(ours), step(theirs), strict=True):
        error = (actual.detach().float() - expected.detach().float()).norm() / expected.detach().float().norm()
        assert error < 0.1, error  # a different maximum or sign routes a gradient to another element
    compare(operation, f"{case}, with backward", peer, lambda: step(ours), lambda: step(theirs))
