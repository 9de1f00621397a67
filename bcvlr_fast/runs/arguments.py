"""The settings and the folder of a run, from a command line or from Python keywords."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcvlr_fast.config.fields import flat, with_absolute_paths
from bcvlr_fast.config.files import read_overrides
from bcvlr_fast.config.overlay import dotted, overlay
from bcvlr_fast.config.presets import differing
from bcvlr_fast.config.run import DEFAULT_METHOD, RunConfig, validate
from bcvlr_fast.envs import chosen_rendering, parse_name
from bcvlr_fast.methods.registry import config_type, planned_settings, preset_for, read_config
from bcvlr_fast.runs.options import CommandArguments, Early, grouped, options_type, ungrouped
from bcvlr_fast.system.command import parse, parse_known
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import LOCK, check_writable

_COMMAND_LINE = "command line"
_HELP = {"-h", "--help", "-H", "--help-verbose"}
PLAN = "plan.json"
"""File of a run folder: the minutes that the run was given, and the costs that its numbers of updates follow from."""
DEFAULT_MINUTES = 15.0
_MAY_DIFFER = ("device", "episodes")
"""Settings that a resumed run may change."""


@dataclass(frozen=True)
class Request:
    """A parsed command line of the training command."""

    settings: RunConfig
    folder: Path
    """Run folder: empty or missing for a new run, or the folder of the run to resume."""
    why: str
    """Reason for the preset."""
    sources: Mapping[str, str]
    """Where each setting that is not a default comes from, by dotted name."""
    limit: TimeLimit | None
    """The time that a new run may take; None if its updates are counted, or if it is resumed."""
    track: str
    profile: tuple[int, int] | None
    """The updates (first, end) of each phase to profile."""
    print_config: bool
    dry_run: bool


@dataclass(frozen=True)
class TimeLimit:
    """The time that a run may take."""

    minutes: float
    given: frozenset[str] = frozenset()
    """Settings that the user chose, by dotted name: those among them that the time would determine stay."""


@dataclass(frozen=True)
class _Base:
    """The settings before the options apply, where they come from, and the reason for their preset."""

    settings: RunConfig
    sources: Mapping[str, str] = field(default_factory=dict)
    why: str = ""


def resolve(argv: Sequence[str]) -> Request:
    """Parses a command line. Raises UserError if it is invalid; `--help` prints the help and raises SystemExit."""
    early = parse_known(Early, argv)
    if early.env_factory:
        early = dataclasses.replace(early, env=(f"factory:{early.env_factory}",))
    resumed = _resumed(early)
    kept = None if resumed is None else read_config(resumed / "config.json", RunConfig)
    base = _base(early, kept, helping=not _HELP.isdisjoint(argv))
    options = options_type(type(base.settings))
    given: Any = parse(options, argv, grouped(options, base.settings), compact_help=True)
    command: CommandArguments = given.command
    settings = ungrouped(given, type(base.settings))
    if early.env_factory:
        settings = dataclasses.replace(settings, env=early.env)
    if settings.preset == "auto":
        settings = overlay(settings, {"preset": base.settings.preset})
    settings = _finished(settings)
    sources = _sources(settings, base)
    if resumed is None or kept is None:
        folder, why = folder_for(settings, command.out), base.why
    else:
        folder, why = resumed, f"resumed from {resumed}"
        _check_resumed(_finished(kept), settings, command.out, folder)
    check_writable(folder, "out")
    profile = _updates(command.profile)
    asked = early.preset if early.config_file is None else settings.preset
    given = (name for name, source in sources.items() if source in (_COMMAND_LINE, str(early.config_file)))
    limit = None if resumed else time_limit(command.minutes, settings, asked, given)
    return Request(settings, folder, why, sources, limit, command.track, profile, command.print_config, command.dry_run)


def settings_for(
    env: str | Sequence[str],
    videos: str | Path | Sequence[str | Path] = (),
    *,
    preset: str = "auto",
    method: str = DEFAULT_METHOD,
    **overrides: Any,
) -> RunConfig:
    """The settings of a run, from Python keywords.

    `overrides` are settings by name. Settings of a section are given as a dict or by dotted name:
    `online={"interactions": 4096}` or `**{"online.interactions": 4096}`. Raises UserError as the command line does.
    """
    names = (env,) if isinstance(env, str) else tuple(env)
    paths = [videos] if isinstance(videos, str | Path) else list(videos)
    early = Early(names, method=method, preset=preset, device=overrides.get("device", "auto"))
    return _finished(_from_preset(early, {"videos": paths, **overrides}, "").settings)


def time_limit(minutes: float | None, settings: RunConfig, asked_preset: str, given: Iterable[str]) -> TimeLimit | None:
    """The time limit of a new run: the given one, or 15 minutes where preset auto is that of a CPU.

    It has no default if a setting that it would determine is among the `given` ones. Raises UserError unless the
    minutes are positive and finite.
    """
    given = frozenset(given)
    if minutes is None:
        by_itself = asked_preset == "auto" and settings.preset == "quick"
        free = by_itself and given.isdisjoint(planned_settings(settings.method))
        return TimeLimit(DEFAULT_MINUTES, given) if free else None
    if not 0 < minutes < float("inf"):
        raise UserError(f"minutes: expected a positive number, got {minutes:g}")
    return TimeLimit(minutes, given)


def _base(early: Early, kept: RunConfig | None, helping: bool) -> _Base:
    if kept is not None and early.config_file is None:
        return _Base(_finished(kept), dict.fromkeys(flat(kept), "resumed run"))
    if helping:
        return _Base(config_type(early.method or DEFAULT_METHOD)())
    if early.config_file is None:
        return _from_preset(early, {}, "")
    return _from_preset(early, read_overrides(early.config_file), str(early.config_file))


def _from_preset(early: Early, overrides: Mapping[str, Any], source: str) -> _Base:
    """The preset that `early` or `overrides` names, with `overrides` applied."""
    method = overrides.get("method", early.method or DEFAULT_METHOD)
    named = overlay(
        config_type(method)(), overrides, f"{source}: " if source else ""
    )  # validates before anything is looked up
    for name, own in (("method", early.method), ("preset", early.preset)):
        found = getattr(named, name)
        if name in overrides and found != "auto" and own not in ("", "auto", found):
            raise UserError(f"{name}: {source} is of {name} {found}, got {own}")
    env = named.env if "env" in overrides else early.env or named.env
    _check_names(env)
    scale, why = (named.preset, "") if named.preset != "auto" else (early.preset, "as asked")
    if scale == "auto":
        scale, why = _scale_of(early.device)
    preset = preset_for(method)(env, scale)
    settings = overlay(preset.config, {**overrides, "preset": scale})
    sources = {**dict.fromkeys(("env", "method"), _COMMAND_LINE), **preset.sources, "rendering": "this machine"}
    sources["preset"] = _COMMAND_LINE if early.preset != "auto" else why
    sources |= dict.fromkeys(dotted(overrides), source)
    return _Base(settings, sources, f"from {source}" if source else why)


def _scale_of(device: str) -> tuple[str, str]:
    """(scale, reason) of preset auto."""
    import torch

    cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    return (
        ("paper", "a CUDA device is available")
        if cuda
        else ("quick", "no CUDA device in use; --preset paper overrides")
    )


def _finished(settings: RunConfig) -> RunConfig:
    """`settings` made independent of the machine and the working folder. Raises UserError for invalid settings."""
    _check_names(settings.env)
    validate(settings)
    rendering = chosen_rendering(settings.first_env, settings.rendering)
    return with_absolute_paths(dataclasses.replace(settings, rendering=rendering))


def _check_names(env: tuple[str, ...]) -> None:
    """Raises UserError for unknown environments, names with commas, or an empty list."""
    if not env:
        raise UserError("env: expected one or more names such as procgen:bossfight, got none")
    for name in env:
        if "," in name:
            raise UserError(f"env: expected names separated by spaces, got '{name}' (--env {name.replace(',', ' ')})")
        parse_name(name)


def _sources(settings: RunConfig, base: _Base) -> dict[str, str]:
    """Where the values of `settings` come from: `base` or the command line."""
    values, finished = flat(settings), flat(_finished(base.settings))
    sources = {name: _COMMAND_LINE for name in values if values[name] != finished[name]}
    return differing({**base.sources, **sources}, settings)


def _resumed(early: Early) -> Path | None:
    """The folder of the run to resume; None to start a new one."""
    if early.resume == "never":
        return None
    if early.resume != "auto":
        folder = Path(early.resume)
        if not (folder / "config.json").is_file():
            raise UserError(f"resume: {folder}: expected a run folder with config.json")
        return folder
    if early.out is not None:
        return early.out if (early.out / "config.json").is_file() else None
    runs = sorted(_runs_of(early.env or RunConfig.env).glob("*/config.json"))
    unfinished = [file.parent for file in runs if not (file.parent / "status.json").exists()]
    return unfinished[-1] if unfinished else None


def _runs_of(env: tuple[str, ...]) -> Path:
    return Path("runs") / RunConfig(env=env).task_name.replace(":", "-")


def folder_for(settings: RunConfig, out: Path | None) -> Path:
    """The folder of a new run: `out`, or one named by task, time and seed. Raises UserError if it is not empty."""
    folder = out or _runs_of(settings.env) / f"{time.strftime('%Y%m%d-%H%M%S')}-s{settings.seed}"
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {LOCK}):
        raise UserError(f"out: {folder} is not an empty folder (resume its run with: --resume {folder})")
    return folder


def _check_resumed(kept: RunConfig, asked: RunConfig, out: Path | None, folder: Path) -> None:
    """Raises UserError if the command line would change the settings or the folder of a resumed run."""
    old, new = flat(kept), flat(asked)
    for name, value in old.items():
        if value != new.get(name) and name not in _MAY_DIFFER:
            raise UserError(f"resume: {name}: a resumed run keeps its settings ({value}), got {new.get(name)}")
    if out not in (None, folder):
        raise UserError(f"out: a resumed run stays in its folder ({folder}), got {out}")


def _updates(text: str) -> tuple[int, int] | None:
    """Parses FIRST:END into (first, end); None for an empty text. Raises UserError for anything else."""
    if not text:
        return None
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise UserError(f"profile: expected updates FIRST:END such as 20:30, got '{text}'")
    return int(first), int(end)
