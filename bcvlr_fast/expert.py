"""Makes expert replays: by planning in the simulator, without learning and without a GPU.

python -m bcvlr_fast.expert --env procgen:bossfight --planner --frames 100000
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from bcvlr_fast.command import run_command
from bcvlr_fast.envs import parse_name
from bcvlr_fast.errors import UserError
from bcvlr_fast.experts import planner, replays, simulator
from bcvlr_fast.experts.replays import Replays
from bcvlr_fast.files import cache_folder, check_writable
from bcvlr_fast.record import verify
from bcvlr_fast.screen import Bar, Screen

PAPER_EXPERT = {
    "bigfish": 36.3,
    "bossfight": 11.6,
    "caveflyer": 9.2,
    "chaser": 10.0,
    "climber": 10.2,
    "coinrun": 9.9,
    "dodgeball": 13.5,
    "fruitbot": 29.9,
    "heist": 9.7,
    "jumper": 8.5,
    "leaper": 7.4,
    "maze": 10.0,
    "miner": 11.9,
    "ninja": 9.5,
    "plunder": 11.5,
    "starpilot": 67.0,
}
"""Mean return of the expert whose videos the paper learned from (table 1)."""
_SAVE_EVERY = 20


@dataclass(frozen=True)
class Arguments:
    """Make expert replays of an environment, or list those that are bundled."""

    env: str = "procgen:bossfight"
    """suite:task, such as procgen:bossfight."""
    planner: bool = False
    """Plan in Procgen's simulator (extra [planner])."""
    frames: int = 100_000
    """Frames to make, at least; the last episode is finished."""
    first_level: int = 10_000
    """The first of the levels that are played, one after another."""
    workers: int = 0
    """Processes that plan; 0 takes one per core."""
    out: Path | None = None
    """Replay file; by default under the cache folder. One that is there is gone on with."""
    list: bool = False
    """Print the bundled replays: game, frames, episodes, mean return, the paper's expert, change rate."""


def main(arguments: Arguments) -> None:
    """The command."""
    screen = Screen()
    if arguments.list:
        screen.table(bundled_table())
        return
    _, game = parse_name(arguments.env)
    for name, least, most in (("frames", 1, 10_000_000), ("first_level", 0, 2**31 - 2**24), ("workers", 0, 1024)):
        if not least <= getattr(arguments, name) <= most:
            raise UserError(f"{name}: expected {least} .. {most}, got {getattr(arguments, name)}")
    if not arguments.planner:
        raise UserError("expert: expected --planner or --list")
    file = arguments.out or cache_folder() / "experts" / f"procgen-{game}-planner.npz"
    if file.suffix != ".npz":
        raise UserError(f"out: expected a file named .npz, got {file}")
    check_writable(file.parent, "out")
    simulator.check_installed()
    made = plan(game, arguments.frames, arguments.first_level, arguments.workers or os.cpu_count() or 1, file, screen)
    verify(arguments.env, made, screen)
    table = _table()
    _add_row(table, game, made)
    screen.table(table)
    screen.say(f"every episode came out in EnvPool as planned\nreplays: {file}")
    screen.say(f"to learn from them: python -m bcvlr_fast.train --env {arguments.env} --videos {file}")


def plan(game: str, frames: int, first_level: int, workers: int, file: Path, screen: Screen) -> Replays:
    """Plans until there are `frames` frames; goes on with `file` where it is there, and saves as it goes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made = replays.load_file(file) if file.exists() else _nothing()
    played = np.concatenate([made.level, made.dropped])
    if len(played) and played.min() != first_level:
        raise UserError(f"first_level: {file} begins with level {played.min()}, got {first_level}")
    if made.frames >= frames:
        return made
    episodes: list[planner.Planned] = []
    with (
        screen.bar(f"planning {game}", total=frames, unit="frames", done=made.frames) as bar,
        planner.plan(game, first_level + len(played), workers) as planned,
    ):
        try:
            done = made.frames
            while done < frames:
                episode = next(planned)
                episodes.append(episode)
                done += 0 if episode.dropped else len(episode.actions) + 1
                _show(bar, episode)
                if len(episodes) == _SAVE_EVERY:
                    made, episodes = _joined(made, episodes), []
                    made.save(file)
        finally:
            made = _joined(made, episodes)
            made.save(file)
    return made


def _show(bar: Bar, episode: planner.Planned) -> None:
    if not episode.dropped:
        bar.advance(len(episode.actions) + 1)
        bar.show(f"level {episode.level}: return {episode.episode_return:.1f}")


def _nothing() -> Replays:
    integers, actions = np.empty(0, np.int32), np.empty(0, np.uint8)
    return Replays(integers, integers, actions, np.empty(0, np.float32))


def _joined(made: Replays, episodes: list[planner.Planned]) -> Replays:
    kept = [episode for episode in episodes if not episode.dropped]
    dropped = [episode.level for episode in episodes if episode.dropped]
    return replace(
        made,
        level=np.append(made.level, np.array([e.level for e in kept], np.int32)),
        length=np.append(made.length, np.array([len(e.actions) for e in kept], np.int32)),
        actions=np.concatenate([made.actions, *(e.actions for e in kept)]),
        episode_return=np.append(made.episode_return, np.array([e.episode_return for e in kept], np.float32)),
        dropped=np.append(made.dropped, np.array(dropped, np.int32)),
    )


def bundled_table() -> Table:
    """The bundled replays, a row per game."""
    table = _table()
    for game in replays.available():
        _add_row(table, game, replays.load(game))
    return table


def _table() -> Table:
    table = Table()
    for name in ("game", "frames", "episodes", "levels given up", "mean return", "the paper's expert", "change rate"):
        table.add_column(name, justify="left" if name == "game" else "right")
    return table


def _add_row(table: Table, game: str, made: Replays) -> None:
    episodes = len(made.level)
    error = made.episode_return.std(ddof=1) / episodes**0.5 if episodes > 1 else float("nan")
    table.add_row(
        game,
        f"{made.frames:,}",
        f"{episodes:,}",
        f"{len(made.dropped):,}",
        f"{made.episode_return.mean():.2f} ± {error:.2f}",
        f"{PAPER_EXPERT[game]:.1f}",
        f"{made.change_rate:.3f}",
    )


if __name__ == "__main__":
    run_command(main, Arguments)
