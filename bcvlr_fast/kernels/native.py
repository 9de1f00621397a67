"""Loads and calls the C++ library built from csrc/."""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_VERSION = 3  # bcvlr_version() in csrc/dispatch.cpp
_POINTER, _INT, _LONG, _DOUBLE, _BOOL = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_double,
    ctypes.c_bool,
)
_SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "bcvlr_choose_isa": ([_INT], _INT),
    "bcvlr_isa": ([], ctypes.c_char_p),
    "bcvlr_first_outside": ([_POINTER, _LONG, _LONG], _LONG),
    "bcvlr_use_openmp": ([_POINTER], None),
    "bcvlr_random_shift": ([_POINTER] * 4 + [_LONG] * 7 + [_BOOL] * 3 + [_INT], _INT),
    "bcvlr_nearest_code": ([_POINTER] * 8 + [_LONG] * 5 + [_DOUBLE] * 2 + [_INT], _INT),
    "bcvlr_nearest_code_backward": ([_POINTER] * 5 + [_LONG, _INT], _INT),
    "bcvlr_stack_frames": ([_POINTER] * 2 + [_LONG] * 4 + [_DOUBLE, _BOOL, _INT], _INT),
    "bcvlr_has_bf16": ([], _BOOL),
    "bcvlr_residual_block": ([_POINTER] * 7 + [_LONG] * 5 + [_INT], _INT),
    "bcvlr_residual_block_backward": ([_POINTER] * 10 + [_LONG] * 5 + [_INT], _INT),
    "bcvlr_conv_pool": ([_POINTER] * 5 + [_LONG] * 5 + [_INT], _INT),
    "bcvlr_conv_pool_backward": ([_POINTER] * 7 + [_LONG] * 5 + [_INT], _INT),
    "bcvlr_sinkhorn": ([_POINTER] * 4 + [_LONG] * 3 + [_DOUBLE, _INT], _INT),
}

_reference_only = False


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None if the PyTorch references run instead, which one warning reports.

    $BCVLR_FAST_LIBRARY names another library file; `none` selects the references.
    """
    return None if _reference_only else _load()


def has_bf16() -> bool:
    """Whether the library has bf16 convolutions and this CPU has the AVX512-BF16 instructions that they need."""
    loaded = library()
    return loaded is not None and bool(loaded.bcvlr_has_bf16())


@contextmanager
def reference_only() -> Iterator[None]:
    """Context in which operations on the CPU run as their PyTorch references, for comparisons and debugging."""
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before


def describe(device: torch.device) -> str:
    """Name of the implementation that runs the operations on `device`."""
    if device.type == "cuda":
        return "Triton"
    loaded = library()
    return f"C++ ({loaded.bcvlr_isa().decode()})" if loaded else "PyTorch (no compiled library)"


def call(function: str, *arguments: Tensor | float | None) -> None:
    """Calls a function of the library with tensors as pointers and torch's number of threads as last argument.

    Raises MemoryError if memory runs out, and RuntimeError if this machine cannot run the function.
    """
    loaded = _load()
    assert loaded is not None
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    if code := getattr(loaded, function)(*values, torch.get_num_threads()):
        raise (
            MemoryError(f"{function}: not enough memory")
            if code == 1
            else RuntimeError(f"{function}: not supported here")
        )


@functools.cache
def _load() -> ctypes.CDLL | None:
    name = os.environ.get("BCVLR_FAST_LIBRARY", "")
    if name == "none":
        return None
    path = Path(name) if name else Path(__file__).with_name("_cpu.so")
    try:
        loaded = ctypes.CDLL(str(path))
        version = loaded.bcvlr_version()
        if version != _VERSION:
            raise OSError(f"{path}: expected version {_VERSION}, got {version}")
        for function, (arguments, result) in _SIGNATURES.items():
            getattr(loaded, function).argtypes, getattr(loaded, function).restype = arguments, result
        if openmp := getattr(ctypes.CDLL(None), "GOMP_parallel", None):
            loaded.bcvlr_use_openmp(ctypes.cast(openmp, _POINTER))
        return loaded
    except (OSError, AttributeError) as error:
        reason = str(error) if path.exists() else "not built"
        warnings.warn(
            f"C++ kernels: {reason}; using PyTorch, several times slower (install a C++ compiler and reinstall)",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
