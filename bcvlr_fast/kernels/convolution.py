"""residual_block and conv_pool: the blocks of IMPALA, which C++ does whole where the CPU multiplies bf16."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from bcvlr_fast.kernels import native

_WIDEST = 64
"""Output channels from which oneDNN's convolutions are as fast (bench/bench_convolution.py)."""


def residual_block(x: Tensor, weight0: Tensor, bias0: Tensor, weight1: Tensor, bias1: Tensor) -> Tensor:
    """x + conv(relu(conv(relu(x)))), 3x3 with a border of zeros.

    x [B, C, H, W]; weight0 [hidden, C, 3, 3], bias0 [hidden], weight1 [C, hidden, 3, 3], bias1 [C] float32. Under
    autocast the products are in bf16, as those of torch; their sums and what is added to them are rounded once.
    Source: Espeholt et al. 2018.
    """
    if _served(x, weight0, weight1):
        parameters = weight0, bias0, weight1, bias1
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters))
        return cast(Tensor, _ResidualBlock.apply(x, *parameters, keep))  # type: ignore[no-untyped-call]
    hidden = F.relu_(F.conv2d(F.relu(x), weight0, bias0, padding=1))
    return F.conv2d(hidden, weight1, bias1, padding=1).add_(x)


def conv_pool(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Maximum over 3x3 windows, at every second pixel, of a 3x3 convolution with a border of zeros.

    x [B, C, H, W], weight [out, C, 3, 3], bias [out] float32 -> [B, out, (H + 1) // 2, (W + 1) // 2]. Numbers as in
    `residual_block`. Source: Espeholt et al. 2018.
    """
    if _served(x, weight):
        return cast(Tensor, _ConvPool.apply(x, weight, bias))  # type: ignore[no-untyped-call]
    return F.max_pool2d(F.conv2d(x, weight, bias, padding=1), 3, stride=2, padding=1)


def _served(x: Tensor, *weights: Tensor) -> bool:
    """Whether the library does it, and at least as fast as torch."""
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and x.shape[2] % 4 == x.shape[3] % 4 == 0
        and all(_fits(weight) for weight in weights)
        and native.multiplies_bf16()
    )


def _fits(weight: Tensor) -> bool:
    out, channels = weight.shape[:2]
    return weight.dtype == torch.float32 and out % 16 == channels % 16 == 0 and out <= _WIDEST


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _images(x: Tensor, channels: int, height: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty((len(x), channels, height, width), dtype=dtype, memory_format=torch.channels_last)


class _ResidualBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight0: Tensor,
        bias0: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        keep: bool,
    ) -> Tensor:
        """`keep` tells whether there will be a backward."""
        x, weight0, weight1 = _channels_last(x), _channels_last(weight0), _channels_last(weight1)
        batch, channels, height, width = x.shape
        hidden = len(weight0)
        out, middle = torch.empty_like(x), _images(x, hidden, height, width) if keep else None
        native.call(
            "bcvlr_residual_block",
            *(x, weight0, bias0.contiguous(), weight1, bias1.contiguous(), middle, out),
            *(batch, height, width, channels, hidden),
        )
        if middle is not None:
            ctx.save_for_backward(x, middle, weight0, weight1)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.BackwardCFunction, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, middle, weight0, weight1 = ctx.saved_tensors  # type: ignore[misc]
        batch, channels, height, width = x.shape
        hidden = len(weight0)
        out = torch.empty_like(x)
        learned: list[Tensor | None] = [None] * 4
        if any(ctx.needs_input_grad[1:]):
            learned = [torch.empty_like(weight0), weight0.new_empty(hidden)]
            learned += [torch.empty_like(weight1), weight1.new_empty(channels)]
        native.call(
            "bcvlr_residual_block_backward",
            *(_channels_last(gradient), x, middle, weight0, weight1, out, *learned),
            *(batch, height, width, channels, hidden),
        )
        return out, *learned, None


class _ConvPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, weight = _channels_last(x), _channels_last(weight)
        batch, channels, height, width = x.shape
        pooled = len(weight), height // 2, width // 2
        out, position = _images(x, *pooled), _images(x, *pooled, dtype=torch.uint8)
        native.call(
            "bcvlr_conv_pool",
            *(x, weight, bias.contiguous(), out, position),
            *(batch, height, width, channels, len(weight)),
        )
        ctx.save_for_backward(x, position, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.BackwardCFunction, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, position, weight = ctx.saved_tensors  # type: ignore[misc]
        batch, channels, height, width = x.shape
        out = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        learned: list[Tensor | None] = [None] * 2
        if any(ctx.needs_input_grad[1:]):
            learned = [torch.empty_like(weight), weight.new_empty(len(weight))]
        native.call(
            "bcvlr_conv_pool_backward",
            *(_channels_last(gradient), position, x, weight, out, *learned),
            *(batch, height, width, channels, len(weight)),
        )
        return out, *learned
