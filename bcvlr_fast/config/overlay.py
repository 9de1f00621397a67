"""Plain data over a configuration: values from JSON, presets or keyword arguments in place of its own."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar

from bcvlr_fast.config.fields import hints_of
from bcvlr_fast.system.errors import UserError, did_you_mean

C = TypeVar("C")


def overlay(base: C, values: Any, where: str = "", section: str = "") -> C:
    """`base` with `values` in place of its own.

    A setting of a section is named by a nested object or by its dotted name: `{"online": {"num_envs": 8}}` or
    `{"online.num_envs": 8}`. Raises UserError for an unknown field or a wrong type; it starts with `where`, such as the
    name of a file, and names the field with the `section` that `base` is.
    """
    if not isinstance(values, Mapping):
        raise UserError(
            f"{where}{section.removesuffix('.') or 'settings'}: expected an object, got {type(values).__name__}"
        )
    hints = hints_of(type(base))
    names = tuple(item.name for item in dataclasses.fields(base))  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name, dot, rest = key.partition(".")
        if name not in names:
            raise UserError(f"{where}unknown field '{section}{name}'{did_you_mean(name, names)}")
        current = changes.get(name, getattr(base, name))
        if dataclasses.is_dataclass(current):
            changes[name] = overlay(current, {rest: value} if dot else value, where, f"{section}{name}.")
        elif dot:
            raise UserError(f"{where}unknown field '{section}{key}': '{name}' has no parts")
        else:
            changes[name] = _converted(value, hints[name], f"{where}{section}{name}")
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of the settings that `values`, as of `overlay`, gives."""
    names: list[str] = []
    for key, value in values.items():
        names += dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return names


def _converted(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint`: lists become tuples, strings paths, and integers floats."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{name}: expected a list, got {value!r}")
        return tuple(_converted(part, parts[0], name) for part in value)
    if NoneType in parts:
        return None if value is None else _converted(value, parts[0], name)
    if hint is Path:
        if not isinstance(value, str | Path):
            raise UserError(f"{name}: expected a path, got {value!r}")
        return Path(value)
    kinds = {type(part) for part in parts} if typing.get_origin(hint) is Literal else {hint}
    if type(value) is int and float in kinds:
        return float(value)
    if type(value) not in kinds:
        raise UserError(f"{name}: expected {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}")
    return value
