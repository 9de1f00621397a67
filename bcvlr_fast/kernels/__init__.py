"""The hot operations: one public function each, with a PyTorch reference, a C++ and a Triton implementation.

The device decides: C++ on the CPU (the reference, where no library was built), Triton on a GPU. stack_frames and the
networks' blocks, residual_block and conv_pool, have no Triton: PyTorch serves there.
"""

from bcvlr_fast.kernels.convolution import conv_pool, residual_block
from bcvlr_fast.kernels.native import describe, reference_only
from bcvlr_fast.kernels.nearest_code import NearestCode, nearest_code
from bcvlr_fast.kernels.random_shift import random_shift
from bcvlr_fast.kernels.sinkhorn import sinkhorn, sinkhorn_cross_entropy
from bcvlr_fast.kernels.stack_frames import stack_frames

__all__ = [
    "NearestCode",
    "conv_pool",
    "describe",
    "nearest_code",
    "random_shift",
    "reference_only",
    "residual_block",
    "sinkhorn",
    "sinkhorn_cross_entropy",
    "stack_frames",
]
