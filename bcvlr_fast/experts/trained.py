"""Experts that are networks trained on states with SAC: the bundled ones of DMControl, or from a file of weights."""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from bcvlr_fast.envs import SUITES, dmc, parse_name
from bcvlr_fast.experts.acting import ActingExpert
from bcvlr_fast.experts.expert import WEIGHTS_SUFFIX
from bcvlr_fast.system.errors import UserError


def bundled(env: str) -> ActingExpert:
    """The bundled network of a DMControl task. Raises UserError if there is none."""
    suite, task = parse_name(env)
    if suite != dmc.SUITE.name or task not in available():
        train = (
            f", or train one: python -m bcvlr_fast.expert --env {env} --sac" if "sac" in SUITES[suite].makers else ""
        )
        known = ", ".join(available())
        advice = f"give --videos PATH with videos of an expert{train}"
        raise UserError(f"videos: no expert is bundled for {env} ({advice}; bundled: {known})")
    with as_file(_file(task)) as file:
        return from_file(file, env)


def from_file(file: Path, env: str) -> ActingExpert:
    """An expert from its weights. Raises UserError if the file is invalid or of another environment."""
    from bcvlr_fast.experts.sac import load_actor

    actor, card = load_actor(file)
    if card.get("env") != env:
        raise UserError(f"expert: {file}: of {card.get('env')}, expected {env}")
    return ActingExpert(env, hashlib.sha256(file.read_bytes()).hexdigest()[:8], actor.act)


def is_weights(path: Path) -> bool:
    """Whether a path has the suffix of a file of weights."""
    return path.suffix == WEIGHTS_SUFFIX


def available() -> tuple[str, ...]:
    """The DMControl tasks that have a bundled expert."""
    return tuple(task for task in dmc.TASKS if _file(task).is_file())


def card(task: str) -> dict[str, Any]:
    """The card of a bundled expert: seed, settings, learning curve and return."""
    from bcvlr_fast.experts.weights import load_weights

    with as_file(_file(task)) as file:
        return load_weights(file)[1]


def _file(task: str) -> Any:
    return files("bcvlr_fast.experts") / "dmc" / f"{task}{WEIGHTS_SUFFIX}"
