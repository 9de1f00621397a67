"""Tables of the bundled experts, beside the experts of the paper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from rich.table import Table

from bcvlr_fast.envs import PROCGEN_GAMES
from bcvlr_fast.experts import playing, replaying, replays, trained
from bcvlr_fast.experts.paper import PAPER_EXPERT
from bcvlr_fast.experts.replays import Replays

PROCGEN_COLUMNS = ("game", "levels", "frames", "mean return", "paper", "changes", "imitability")
_CAPTION = (
    "any level and any number of frames: a network, otherwise replays; paper: mean return of its expert; changes: "
    "fraction of steps that change the action; imitability: recovery of cloning the true actions of 200,000 frames "
    "with 12,000 updates of the quick networks"
)


def procgen_table() -> Table:
    """Table of the experts of Procgen, one row per game."""
    return _table("Procgen", PROCGEN_COLUMNS, _CAPTION, procgen_rows())


def procgen_rows() -> Iterator[list[str]]:
    """Cells of `PROCGEN_COLUMNS` for each game: its network, or its replays where no network is bundled."""
    measured = json.loads((files("bcvlr_fast.experts") / "procgen" / "imitability.json").read_text())
    for game in PROCGEN_GAMES:
        if game in playing.available():
            name, cells = playing.bundled(f"procgen:{game}").name, network_cells(game, playing.card(game))
        else:
            name, cells = replaying.bundled(f"procgen:{game}").name, replays_cells(replays.load_bundled(game))
        found = measured.get(game, {})
        known = found.get("expert") == name  # and not that of an earlier expert of the game
        yield [*cells, f"{found['mean']:.2f} ± {found['mean'] - found['low']:.2f}" if known else ""]


def network_cells(game: str, card: dict[str, Any]) -> list[str]:
    """Cells of a network but for its imitability."""
    found = card["return"]
    score = f"{found['mean']:.1f} ± {found['standard_error']:.1f}"
    return [game, "any", "any", score, f"{PAPER_EXPERT[game]:.1f}", f"{card['change_rate']:.3f}"]


def replays_cells(made: Replays) -> list[str]:
    """Cells of replays but for their imitability."""
    episodes = len(made.level)
    error = made.episode_return.std(ddof=1) / episodes**0.5 if episodes > 1 else float("nan")
    score = f"{made.episode_return.mean():.1f} ± {error:.1f}"
    counts = [f"{episodes:,}", f"{made.frames:,}"]
    return [made.game, *counts, score, f"{PAPER_EXPERT[made.game]:.1f}", f"{made.change_rate:.3f}"]


def replays_table(made: Replays) -> Table:
    """Table of the replays of one game."""
    return _table("", PROCGEN_COLUMNS[:-1], "", [replays_cells(made)])


def dmc_table() -> Table:
    """Table of the experts of DMControl, one row per task, from their cards."""
    rows = []
    for task in trained.available():
        card = trained.card(task)
        score, paper = card["return"], PAPER_EXPERT.get(task)
        shown = f"{score['mean']:.1f} ± {score['standard_error']:.1f}"
        counts = [f"{card['updates']:,}", f"{card['minutes']:g}"]
        rows.append([task, shown, str(score["episodes"]), f"{paper:g}" if paper else "", *counts])
    columns = ("task", "mean return", "episodes", "paper", "updates", "minutes")
    return _table("DMControl", columns, "paper: mean return of its expert", rows)


def _table(title: str, columns: tuple[str, ...], caption: str, rows: Any) -> Table:
    table = Table(title=title, caption=caption)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
