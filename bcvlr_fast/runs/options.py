"""The options of the training command as data, grouped as `--help` shows them."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from bcvlr_fast.config.run import GROUPS, RunConfig

R = TypeVar("R", bound=RunConfig)


@dataclass(frozen=True)
class CommandArguments:
    """Options of the command itself: the run folder, and what to do besides training."""

    minutes: float | None = None
    """Minutes that the run may take, evaluation and report included. What updates cost here is measured, and their
    numbers follow from it. By default 15 for preset auto on a CPU, and the preset's numbers otherwise."""
    env_factory: str = ""
    """module:function that returns a gymnasium.Env; the same as --env factory:module:function."""
    out: Path | None = None
    """Run folder. None: runs/<env>/<time>-s<seed>."""
    resume: str = "never"
    """Run folder to resume, never, or auto: the run in --out, or the newest unfinished run of the environment; a new
    one if there is none."""
    config_file: Path | None = None
    """JSON file with all or some settings, such as the config.json of another run. Options override it."""
    track: Literal["none", "tensorboard"] = "none"
    """Where metrics are logged, besides metrics.jsonl."""
    profile: str = ""
    """Updates FIRST:END of each phase to profile: as NVTX ranges for Nsight on a GPU, as a trace in the run folder on a
    CPU. Empty: none."""
    print_config: bool = False
    """Print the resolved settings, and where they come from, as JSON that --config-file reads; then stop."""
    dry_run: bool = False
    """Check the settings and the inputs, print what would run, and stop."""


@dataclass(frozen=True)
class Early:
    """The options that determine the defaults of all others."""

    env: tuple[str, ...] = ()
    env_factory: str = ""
    method: str = ""
    preset: str = "auto"
    device: str = "auto"
    config_file: Path | None = None
    resume: str = "never"
    out: Path | None = None


_DESCRIPTION = """Learn a policy from expert videos alone: no actions, no rewards.

Defaults are those of preset paper in Procgen. --help-verbose explains every option; --print-config prints the settings
of a command and where they come from."""
_SHARED = {item.name for item in dataclasses.fields(RunConfig)}


def options_type(config: type[RunConfig]) -> type:
    """The dataclass of a command line: option groups of every run, options of the command, sections of the method."""
    hints = typing.get_type_hints(config)
    parts: list[Any] = [(name, Annotated[group, tyro.conf.OmitArgPrefixes]) for name, group in GROUPS.items()]
    parts += [("command", Annotated[CommandArguments, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff])]
    parts += [(name, hints[name]) for name in _sections(config)]
    return dataclasses.make_dataclass("Options", parts, namespace={"__doc__": _DESCRIPTION}, frozen=True)


def grouped(options: type, settings: RunConfig) -> Any:
    """`settings` as an instance of `options`, which `options_type` made."""
    groups = {
        name: group(**{item.name: getattr(settings, item.name) for item in dataclasses.fields(group)})
        for name, group in GROUPS.items()
    }
    sections = {name: getattr(settings, name) for name in _sections(type(settings))}
    return options(**groups, **sections, command=CommandArguments())


def ungrouped(given: Any, config: type[R]) -> R:
    """The settings in `given`, an instance of `options_type(config)`, as `config`."""
    values = {name: getattr(given, name) for name in _sections(config)}
    for name, group in GROUPS.items():
        values |= {item.name: getattr(getattr(given, name), item.name) for item in dataclasses.fields(group)}
    return config(**values)


def _sections(config: type[RunConfig]) -> list[str]:
    return [item.name for item in dataclasses.fields(config) if item.name not in _SHARED]
