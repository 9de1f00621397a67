"""Methods by name: their configurations and presets. Importing this module imports no method."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from bcvlr_fast.config import files
from bcvlr_fast.config.presets import Preset, build
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.system.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from bcvlr_fast.methods.method import Method
    from bcvlr_fast.methods.work import Costs, MeasureCosts

R = TypeVar("R", bound=RunConfig)


class Entry(NamedTuple):
    """Where the parts of a method are, as `module:name`."""

    method: str
    config: str
    presets: str
    costs: str
    """A `MeasureCosts`."""
    planned: tuple[str, ...]
    """Settings that a time limit determines, by dotted name."""
    last_phase: str = ""
    """Phase whose updates, the last setting of `planned`, are counted again when it begins. Empty: none."""


METHODS = {
    "bcv-lr": Entry(
        method="bcvlr_fast.methods.bcvlr.method:BCVLR",
        config="bcvlr_fast.methods.bcvlr.config:Config",
        presets="bcvlr_fast.methods.bcvlr.presets:TABLE",
        costs="bcvlr_fast.methods.bcvlr.planning:measure_costs",
        planned=(
            "features.updates",
            "latent_actions.updates",
            "policy.updates",
            "online.finetune_updates",
            "online.clone_updates",
            "final.updates",
        ),
        last_phase="final_cloning",
    ),
    "bc-true-actions": Entry(
        method="bcvlr_fast.methods.bc_true_actions:BCTrueActions",
        config="bcvlr_fast.methods.bc_true_actions:Config",
        presets="bcvlr_fast.methods.bc_true_actions:TABLE",
        costs="bcvlr_fast.methods.bc_true_actions:measure_costs",
        planned=("policy.updates",),
    ),
}


def config_type(method: str) -> type[RunConfig]:
    """The configuration class of `method`. Raises UserError for an unknown one."""
    found = _load(_entry(method).config)
    assert isinstance(found, type)
    assert issubclass(found, RunConfig)
    return found


def method_type(method: str) -> type[Method]:
    """The class of `method`, imported now. Raises UserError for an unknown one."""
    found: type[Method] = _load(_entry(method).method)
    return found


def preset_for(method: str) -> Callable[[Sequence[str], str], Preset[RunConfig]]:
    """(environments, scale) -> preset of `method`. Raises UserError for an unknown method."""
    return functools.partial(build, config_type(method)(method=method), _load(_entry(method).presets))


def planned_settings(method: str) -> tuple[str, ...]:
    """The settings that a time limit determines, by dotted name. Raises UserError for an unknown method."""
    return _entry(method).planned


def last_phase(method: str) -> str:
    """The phase whose updates are counted again when it begins; empty if there is none."""
    return _entry(method).last_phase


def costs_of(config: RunConfig, frames: int, settings: Collection[str]) -> Costs:
    """What the updates that `settings` count cost on this machine, measured now, if they learn from `frames` frames."""
    measure: MeasureCosts = _load(_entry(config.method).costs)
    return measure(config, frames, settings)


def read_config(file: Path, kind: type[R]) -> R:
    """The configuration that a run saved in `file`; RunConfig is the `kind` of every method.

    Raises UserError for an incomplete configuration, or for that of a method with another kind.
    """
    config = files.read_saved(file, config_type)
    if not isinstance(config, kind):
        raise UserError(f"{file}: method: {config.method} cannot be used here")
    return config


def _entry(method: str) -> Entry:
    if method not in METHODS:
        known = tuple(METHODS)
        raise UserError(f"method: expected one of {', '.join(known)}, got '{method}'{did_you_mean(method, known)}")
    return METHODS[method]


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
