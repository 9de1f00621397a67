"""residual_block and conv_pool: the convolution blocks of the IMPALA network.

They run as torch convolutions, except on CPUs with AVX512-BF16 but without AMX, which run C++ kernels. They are not
registered as torch operations, so that compilers still see torch convolutions.
"""

from __future__ import annotations

import functools
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from bcvlr_fast.kernels import native

_MAX_CHANNELS = 64
"""Maximum number of output channels for the C++ kernels; at 128, oneDNN was 4 % faster, forward and backward."""


def residual_block(x: Tensor, weight0: Tensor, bias0: Tensor, weight1: Tensor, bias1: Tensor) -> Tensor:
    """Computes x + conv(relu(conv(relu(x)))) with zero-padded 3x3 convolutions.

    x [B, C, H, W]; weight0 [hidden, C, 3, 3], bias0 [hidden], weight1 [C, hidden, 3, 3], bias1 [C] float32. Under
    autocast, products are in bf16, as in torch; the C++ kernel rounds each sum, including bias and residual, once. Do
    not modify x before the backward pass. Raises the errors of torch's convolution. Source: Espeholt et al. 2018.
    """
    if _uses_cpp(x, (weight0, bias0), (weight1, bias1)):
        parameters = weight0, bias0, weight1, bias1
        return cast(Tensor, _ResidualBlock.apply(x, *parameters, _needs_backward(x, *parameters)))  # type: ignore[no-untyped-call]
    return reference_block(x, weight0, bias0, weight1, bias1)


def conv_pool(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Zero-padded 3x3 convolution followed by 3x3 max-pooling with stride 2.

    x [B, C, H, W], weight [out, C, 3, 3], bias [out] float32 -> [B, out, (H + 1) // 2, (W + 1) // 2]. Number formats
    and errors are those of `residual_block`. Source: Espeholt et al. 2018.
    """
    if _uses_cpp(x, (weight, bias)):
        return cast(Tensor, _ConvPool.apply(x, weight, bias, _needs_backward(x, weight, bias)))  # type: ignore[no-untyped-call]
    return reference_pool(x, weight, bias)


def reference_block(x: Tensor, weight0: Tensor, bias0: Tensor, weight1: Tensor, bias1: Tensor) -> Tensor:
    """residual_block in plain PyTorch; overwrites the outputs of its convolutions."""
    middle = F.relu_(F.conv2d(F.relu(x), weight0, bias0, padding=1))
    return F.conv2d(middle, weight1, bias1, padding=1).add_(x)


def reference_pool(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """conv_pool in plain PyTorch."""
    return F.max_pool2d(F.conv2d(x, weight, bias, padding=1), 3, stride=2, padding=1)


def _uses_cpp(x: Tensor, *layers: tuple[Tensor, Tensor]) -> bool:
    """Whether the C++ kernels support these tensors and are faster than torch."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16):
        return False
    if x.ndim != 4 or x.shape[2] % 4 or x.shape[3] % 4:
        return False
    channels = x.shape[1]
    for weight, bias in layers:
        out = len(bias)
        if weight.shape != (out, channels, 3, 3) or channels % 16 or out % 16 or out > _MAX_CHANNELS:
            return False
        if any(tensor.dtype != torch.float32 or tensor.device != x.device for tensor in (weight, bias)):
            return False
        channels = out
    return (len(layers) == 1 or channels == x.shape[1]) and native.has_bf16() and not _has_amx()


@functools.cache
def _has_amx() -> bool:
    """Whether the CPU has AMX, which torch's convolutions use; the C++ kernels were never measured against it."""
    is_supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return is_supported is not None and bool(is_supported())


def _needs_backward(*tensors: Tensor) -> bool:
    """Whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


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
        needs_backward: bool,
    ) -> Tensor:
        x, weight0, weight1 = _channels_last(x), _channels_last(weight0), _channels_last(weight1)
        batch, channels, height, width = x.shape
        hidden = len(weight0)
        out, middle = torch.empty_like(x), _images(x, hidden, height, width) if needs_backward else None
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
        out = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        parameter_gradients: list[Tensor | None] = [None] * 4
        if any(ctx.needs_input_grad[1:]):
            parameter_gradients = [torch.empty_like(weight0), weight0.new_empty(hidden)]
            parameter_gradients += [torch.empty_like(weight1), weight1.new_empty(channels)]
        native.call(
            "bcvlr_residual_block_backward",
            *(_channels_last(gradient), x, middle, weight0, weight1, out, *parameter_gradients),
            *(batch, height, width, channels, hidden),
        )
        return out, *parameter_gradients, None


class _ConvPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, needs_backward: bool) -> Tensor:
        x, weight = _channels_last(x), _channels_last(weight)
        batch, channels, height, width = x.shape
        pooled = len(weight), height // 2, width // 2
        out, position = _images(x, *pooled), _images(x, *pooled, dtype=torch.uint8) if needs_backward else None
        native.call(
            "bcvlr_conv_pool",
            *(x, weight, bias.contiguous(), out, position),
            *(batch, height, width, channels, len(weight)),
        )
        if position is not None:
            ctx.save_for_backward(x, position, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.BackwardCFunction, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, position, weight = ctx.saved_tensors  # type: ignore[misc]
        batch, channels, height, width = x.shape
        out = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        parameter_gradients: list[Tensor | None] = [None] * 2
        if any(ctx.needs_input_grad[1:]):
            parameter_gradients = [torch.empty_like(weight), weight.new_empty(len(weight))]
        native.call(
            "bcvlr_conv_pool_backward",
            *(_channels_last(gradient), position, x, weight, out, *parameter_gradients),
            *(batch, height, width, channels, len(weight)),
        )
        return out, *parameter_gradients, None
