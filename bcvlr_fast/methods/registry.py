"""The methods by name. Importing this module imports none of them."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Where a method's parts are defined, each as module:name."""

    config: str
    preset: str
    method: str


METHODS = {
    "bcv-lr": Entry("bcvlr_fast.config:Config", "bcvlr_fast.config:preset", "bcvlr_fast.methods.bcvlr.method:BCVLR"),
}


def load_part(method: str, part: str) -> Any:
    """The `part` (config, preset or method) of a method, imported now."""
    module, _, name = getattr(METHODS[method], part).partition(":")
    return getattr(importlib.import_module(module), name)
