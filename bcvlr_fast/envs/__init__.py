"""Environments by name: `make("procgen:bossfight", ...)` gives every suite the same batched pixel interface.

A suite is one module with a `Suite`, listed in `SUITES`.
"""

from __future__ import annotations

import functools
from pathlib import Path

from bcvlr_fast.envs import dmc, gym, metaworld, procgen
from bcvlr_fast.envs.episodes import Episode
from bcvlr_fast.envs.interface import PixelEnv, Step
from bcvlr_fast.envs.procgen import PROCGEN_GAMES
from bcvlr_fast.envs.specs import EnvSpec, Rendering
from bcvlr_fast.envs.suite import EnvOptions, Suite
from bcvlr_fast.system.errors import UserError, did_you_mean

SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (procgen.SUITE, dmc.SUITE, metaworld.SUITE, gym.GYM, gym.FACTORY)
}


def make(
    name: str, num_envs: int, seed: int, level: int | None = None, rendering: str = "stock", blind: bool = False
) -> PixelEnv:
    """Makes `num_envs` seeded environments of `name`, which is suite:task.

    `level` fixes Procgen's level in place of the full distribution. `rendering` is how MuJoCo draws: stock, fast or
    auto. `blind` environments of MuJoCo show black frames and step faster, for policies that do not look.
    Raises UserError for an unknown name, a missing library, or if rendering does not work.
    """
    suite, task = parse_name(name)
    return SUITES[suite].make(task, num_envs, seed, EnvOptions(level, chosen_rendering(name, rendering), blind))


@functools.cache
def spec(name: str) -> EnvSpec:
    """Spec of the environments that `make` returns. To get the spec of an environment of Gymnasium, one is made.

    Raises UserError for an unknown name.
    """
    suite, task = parse_name(name)
    return SUITES[suite].spec(task)


def parse_name(name: str) -> tuple[str, str]:
    """Splits an environment's name into (suite, task). Raises UserError with a suggestion if it is unknown."""
    word, colon, task = name.partition(":")
    suite = SUITES.get(word)
    if suite is None or not colon or (suite.tasks is None and not task):
        known = tuple(f"{each.name}:{task}" for each in SUITES.values() for task in each.tasks or ())
        raise UserError(f"env: expected suite:task such as procgen:bossfight, got '{name}'{did_you_mean(name, known)}")
    if suite.tasks is None:
        suite.check(task)
    elif task not in suite.tasks:
        raise UserError(f"env: '{task}' is not a task of {word}{did_you_mean(task, suite.tasks)}")
    return word, task


def chosen_rendering(name: str, rendering: str) -> Rendering:
    """Resolves stock, fast or auto for an environment. Auto is stock with a GPU and fast without one.

    Suites that MuJoCo does not draw are always stock.
    """
    if rendering == "stock" or not SUITES[parse_name(name)[0]].renderings:
        return "stock"
    if rendering == "fast":
        return "fast"
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev/dri").glob("renderD*"))
    return "stock" if has_gpu else "fast"


__all__ = [
    "PROCGEN_GAMES",
    "SUITES",
    "Episode",
    "PixelEnv",
    "Step",
    "Suite",
    "chosen_rendering",
    "make",
    "parse_name",
    "spec",
]
