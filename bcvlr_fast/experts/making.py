"""Makes experts, each way on the suites that it works for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bcvlr_fast.envs import SUITES, parse_name
from bcvlr_fast.experts import replays
from bcvlr_fast.experts.bundled import dmc_table, procgen_table, replays_table
from bcvlr_fast.experts.replaying import verify
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen

_DISTILL_UPDATES, _SAC_UPDATES = 20_000, 50_000


class Settings(NamedTuple):
    """Settings of all ways to make an expert; `python -m bcvlr_fast.expert --help` explains them."""

    env: str
    updates: int | None
    """None: the default of the way."""
    steps: float
    start_from: Path | None
    seed: int
    device: str
    precision: str
    frames: int
    first_level: int
    workers: int
    out: Path | None


def make_expert(way: str, settings: Settings, screen: Screen) -> Path:
    """Makes an expert in one of `WAYS` and returns its file of replays or weights.

    Raises UserError if the way does not work for the environment's suite.
    """
    suite, _ = parse_name(settings.env)
    if way not in SUITES[suite].makers:
        works = ", ".join(each.name for each in SUITES.values() if way in each.makers)
        raise UserError(f"expert: --{way} is not for {suite} (it makes experts of {works})")
    return WAYS[way](settings, screen)


def print_bundled(screen: Screen, *, verify_first: bool) -> None:
    """Prints tables of the bundled experts; `verify_first` plays every bundled replay in EnvPool and checks it."""
    for game in replays.available() if verify_first else ():
        verify(replays.load_bundled(game), screen)
    screen.table(procgen_table())
    screen.table(dmc_table())


def _plan(settings: Settings, screen: Screen) -> Path:
    from bcvlr_fast.experts import planner

    _, game = parse_name(settings.env)
    s = settings
    file = planner.make_replays(game, s.frames, s.first_level, s.workers, s.out, screen)
    made = replays.load_replays(file, game)
    verify(made, screen)
    screen.table(replays_table(made))
    screen.say("every episode has the same end and return in EnvPool as in its replay")
    return file


def _distill(settings: Settings, screen: Screen) -> Path:
    from bcvlr_fast.experts import distill_training

    _, game = parse_name(settings.env)
    return distill_training.make_weights(
        game,
        settings.updates or _DISTILL_UPDATES,
        settings.seed,
        settings.workers,
        device=settings.device,
        precision=settings.precision,
        start_from=settings.start_from,
        out=settings.out,
        screen=screen,
    )


def _train_ppo(settings: Settings, screen: Screen) -> Path:
    from bcvlr_fast.experts import ppo_training

    _, game = parse_name(settings.env)
    return ppo_training.make_weights(
        game,
        int(settings.steps),
        settings.seed,
        device=settings.device,
        precision=settings.precision,
        start_from=settings.start_from,
        out=settings.out,
        screen=screen,
    )


def _train_sac(settings: Settings, screen: Screen) -> Path:
    from bcvlr_fast.experts import sac_training

    return sac_training.make_weights(
        settings.env, settings.updates or _SAC_UPDATES, settings.seed, settings.out, screen
    )


WAYS: dict[str, Callable[[Settings, Screen], Path]] = {
    "planner": _plan,
    "distill": _distill,
    "ppo": _train_ppo,
    "sac": _train_sac,
}
"""Ways to make an expert, by the command's option."""
