"""Experts that act on an environment's states: trained ones of DMControl, scripted ones of MetaWorld."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bcvlr_fast.envs import parse_name
from bcvlr_fast.envs.names import DMC_TASKS
from bcvlr_fast.system.errors import UserError

SUFFIX = ".safetensors"


class Act(Protocol):
    """Actions [k, A] float32 in -1..1 of environments in states [k, S] float32."""

    def __call__(self, states: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Behaviour:
    """An expert of `env`; `name` tells its recordings apart."""

    env: str
    name: str
    act: Act


def load(env: str) -> Behaviour:
    """The bundled expert of an environment. Raises UserError where there is none."""
    suite, task = parse_name(env)
    if suite == "metaworld":
        return Behaviour(env, "scripted", Scripted(task))
    if suite != "dmc" or task not in available():
        train = f", or train one: python -m bcvlr_fast.expert --env {env} --sac" if suite == "dmc" else ""
        known = ", ".join(available())
        wanted = f"give --videos PATH with an expert's videos{train}"
        raise UserError(f"videos: no expert is bundled for {env} ({wanted}; bundled: {known})")
    with as_file(files("bcvlr_fast.experts") / "dmc" / f"{task}{SUFFIX}") as file:
        return load_file(file, env)


def available() -> tuple[str, ...]:
    """The DMControl tasks that have a bundled expert."""
    folder = files("bcvlr_fast.experts") / "dmc"
    return tuple(task for task in DMC_TASKS if (folder / f"{task}{SUFFIX}").is_file())


def card(task: str) -> dict[str, Any]:
    """What a bundled expert says of itself."""
    from bcvlr_fast.experts import sac_training

    with as_file(files("bcvlr_fast.experts") / "dmc" / f"{task}{SUFFIX}") as file:
        return sac_training.load(file)[1]


def load_file(file: Path, env: str) -> Behaviour:
    """A trained expert from its weights. Raises UserError where they are not such, or another environment's."""
    from bcvlr_fast.experts import sac_training

    actor, card = sac_training.load(file)
    if card.get("env") != env:
        raise UserError(f"expert: {file}: of {card.get('env')}, expected {env}")
    return Behaviour(env, hashlib.sha256(file.read_bytes()).hexdigest()[:8], actor.act)


class Scripted:
    """MetaWorld's own scripted policy of a task."""

    def __init__(self, task: str) -> None:
        try:
            from metaworld.policies import ENV_POLICY_MAP
        except ModuleNotFoundError as error:
            raise UserError(f"env: metaworld's experts need the package '{error.name}' (extra [metaworld])") from None
        policy: Any = ENV_POLICY_MAP[f"{task}-v3"]
        self._policy = policy()

    def __call__(self, states: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():  # that some of its numbers are clipped, which they are meant to be
            warnings.simplefilter("ignore")
            actions = [self._policy.get_action(state) for state in states.astype(np.float64)]
        return np.clip(actions, -1, 1).astype(np.float32)
