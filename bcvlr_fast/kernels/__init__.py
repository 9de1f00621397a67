"""The hot operations: one public function each, with a PyTorch reference, a C++ and a Triton implementation.

The device selects the implementation: C++ on a CPU (the reference if no library was built), Triton on a GPU.
stack_frames, residual_block and conv_pool have no Triton implementation and run as PyTorch on a GPU.
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
