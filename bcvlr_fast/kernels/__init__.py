"""The hot operations: one public function each, in PyTorch."""

from bcvlr_fast.kernels.nearest_code import NearestCode, nearest_code
from bcvlr_fast.kernels.random_shift import random_shift

__all__ = ["NearestCode", "nearest_code", "random_shift"]
