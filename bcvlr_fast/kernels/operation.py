"""Registration of the operations with torch, so that the dispatcher picks the implementation by device.

`define` and `impl` rather than `custom_op`, whose Python layers cost ten times as much a call (22 us against 2).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("bcvlr_fast", "DEF")


def register(schema: str, cpu: Callable[..., Any], cuda: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """The operation `bcvlr_fast::<schema>`, with what runs on each device and what tells its outputs' shapes."""
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    _LIBRARY.impl(name, cpu, "CPU")
    _LIBRARY.impl(name, cuda, "CUDA")
    torch.library.register_fake(f"bcvlr_fast::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.bcvlr_fast, name).default


def triton(name: str) -> Callable[..., Any]:
    """The launcher `<operation>` or `<operation>.<function>` of `<operation>_triton.py`, imported when first called."""
    module, _, function = name.partition(".")

    def launch(*arguments: Any) -> Any:
        found = importlib.import_module(f"bcvlr_fast.kernels.{module}_triton")
        with torch.cuda.device_of(arguments[0]):
            return getattr(found, function or module)(*arguments)

    return launch


def changed(*tensors: torch.Tensor) -> None:
    """Tells autograd that an operation wrote into these, so that a graph which kept one raises instead of erring."""
    if torch.compiler.is_compiling():
        return  # the schema says it there
    for tensor in tensors:
        if not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)
