"""Configurations as JSON files: those that runs save, and those that users write."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bcvlr_fast.config.overlay import overlay
from bcvlr_fast.config.run import DEFAULT_METHOD, RunConfig, validate
from bcvlr_fast.system.errors import UserError

FORMAT = 2
"""1: `env` and `videos` are strings, separated by commas where they are several. 2: they are lists."""
R = TypeVar("R", bound=RunConfig)


def to_json(config: RunConfig, sources: Mapping[str, str] | None = None) -> str:
    """The configuration as JSON text, with where its values come from if that is given; `from_json` restores it."""
    data: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(config)}
    if sources is not None:
        data["sources"] = dict(sources)
    return json.dumps(data, indent=2, default=str)


def read_saved(file: Path, type_of: Callable[[str], type[R]]) -> R:
    """The configuration that a run saved in `file`; as `from_json`."""
    return from_json(_text(file), str(file), type_of)


def from_json(text: str, source: str, type_of: Callable[[str], type[R]]) -> R:
    """The configuration that `to_json` wrote, of this or an earlier version; reading it has no effects.

    A field that the text lacks has the value that runs had when the text was written. `type_of` gives the configuration
    class of a method; `source` names the text in errors. Raises UserError for text that is not a whole configuration.
    """
    data = _object(text, source)
    default = type_of(data.get("method", DEFAULT_METHOD))()
    config = overlay(default, _completed(default, data, f"{source}: "), f"{source}: ")
    validate(config)
    return config


def read_overrides(file: Path) -> dict[str, Any]:
    """Settings from a file that a user wrote or `--print-config` printed, for `overlay`.

    It may be a part of a configuration. Raises UserError where it is not a JSON object of a known format.
    """
    return _object(_text(file), str(file))


def _completed(default: Any, data: Any, where: str) -> Any:
    """`data` with the earlier meaning of each field that it lacks."""
    if not isinstance(data, dict):
        return data  # overlay refuses it
    whole = dict(data)
    for item in dataclasses.fields(default):
        value = getattr(default, item.name)
        if dataclasses.is_dataclass(value):
            whole[item.name] = _completed(value, data.get(item.name, {}), f"{where}{item.name}.")
        elif item.name not in data:
            if "before" not in item.metadata:
                raise UserError(f"{where}{item.name}: expected in a saved configuration, not found")
            whole[item.name] = item.metadata["before"]
    return whole


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def _object(text: str, source: str) -> dict[str, Any]:
    """The JSON object in the present format, without `format` and `sources`."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source}: expected JSON, got {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{source}: expected an object, got {type(data).__name__}")
    data.pop("sources", None)
    written = data.pop("format", 1)
    if type(written) is not int or written < 1:
        raise UserError(f"{source}: format: expected 1 to {FORMAT}, got {written!r}")
    if written > FORMAT:
        raise UserError(f"{source}: format {written} is newer than {FORMAT}, the newest known here: update bcvlr_fast")
    return _from_format_1(data) if written == 1 else data


def _from_format_1(data: dict[str, Any]) -> dict[str, Any]:
    env, videos = data.get("env"), data.get("videos", [])
    if isinstance(env, str):
        data["env"] = env.split(",")
    if videos is None:
        data["videos"] = []
    elif isinstance(videos, str):  # runs saved absolute paths, which may hold commas of their own
        data["videos"] = re.split(",(?=/)" if videos.startswith("/") else ",", videos)
    return data
