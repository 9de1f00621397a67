"""Fields of a configuration: their ranges, their earlier meaning, and the checks on their values."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, TypeVar

from bcvlr_fast.system.errors import UserError, did_you_mean

C = TypeVar("C")
_NONE = object()


def number(default: float, low: float, high: float = math.inf, *, before: Any = _NONE) -> Any:
    """A dataclass field that `check_fields` holds to `low <= value <= high`; `before` as in `setting`."""
    return field(default=default, metadata={"range": (low, high), **_before(before)})


def setting(default: Any, *, before: Any) -> Any:
    """A dataclass field added after the first release.

    `before` is the value that a run had in effect when its saved configuration does not name the field.
    """
    return field(default=default, metadata=_before(before))


def check_fields(config: Any, prefix: str = "") -> None:
    """Raises UserError for the first field that is out of its range, not finite, or not among its options."""
    hints = hints_of(type(config))
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{name}.")
        elif "range" in item.metadata:
            low, high = item.metadata["range"]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                expected = f"{low:g} <= value" + (f" <= {high:g}" if math.isfinite(high) else "")
                raise UserError(f"{name}: expected {expected}, got {value}")
            if math.isinf(value):
                raise UserError(f"{name}: expected a finite number, got {value}")
        elif typing.get_origin(hints[item.name]) is Literal:
            options = typing.get_args(hints[item.name])
            if value not in options:
                known = tuple(map(str, options))
                expected = ", ".join(known)
                raise UserError(f"{name}: expected one of {expected}, got '{value}'{did_you_mean(value, known)}")
        elif hints[item.name] == tuple[int, ...] and not (value and all(0 < width <= 8192 for width in value)):
            raise UserError(f"{name}: expected one or more widths from 1 to 8192, got {value}")


def hints_of(config: Any) -> dict[str, Any]:
    """The types of the fields of a configuration class."""
    return _hints(config)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """All values by dotted name, such as `online.num_envs`."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        values |= flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return values


def replace_in(config: C, section: str, **changes: Any) -> C:
    """`config` with other values in one of its sections."""
    changed = dataclasses.replace(getattr(config, section), **changes)
    return dataclasses.replace(config, **{section: changed})  # type: ignore[type-var]


def with_absolute_paths(config: C) -> C:
    """`config` with every path absolute, so that it means the same from any working directory."""
    changes = {item.name: _absolute(getattr(config, item.name)) for item in dataclasses.fields(config)}  # type: ignore[arg-type]
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _absolute(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return with_absolute_paths(value)
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return value.absolute() if isinstance(value, Path) else value


@functools.cache
def _hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def _before(value: Any) -> dict[str, Any]:
    return {} if value is _NONE else {"before": value}
