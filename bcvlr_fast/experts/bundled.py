"""Tables of the bundled experts, beside the experts of the paper."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from bcvlr_fast.experts import replays, trained
from bcvlr_fast.experts.paper import PAPER_EXPERT
from bcvlr_fast.experts.replays import Replays


def replays_table() -> Table:
    """Table of the bundled replays, one row per game."""
    return table_of({game: replays.load_bundled(game) for game in replays.available()})


def table_of(made: Mapping[str, Replays]) -> Table:
    """Table of replays by game, one row per game."""
    table = Table(caption="paper: mean return of its expert; changes: fraction of steps that change the action")
    for name in ("game", "frames", "episodes", "given up", "mean return", "paper", "changes"):
        table.add_column(name, justify="left" if name == "game" else "right", no_wrap=True)
    for game, each in made.items():
        table.add_row(*cells(game, each))
    return table


def networks_table() -> Table:
    """Table of the bundled networks of DMControl, one row per task, from their cards."""
    table = Table(title="DMControl", caption="paper: mean return of its expert")
    for name in ("task", "mean return", "episodes", "paper", "updates", "minutes"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for task in trained.available():
        card = trained.card(task)
        score = card["return"]
        shown = f"{score['mean']:.1f} ± {score['standard_error']:.1f}"
        paper = PAPER_EXPERT.get(task)
        counts = (str(score["episodes"]), f"{paper:g}" if paper else "", f"{card['updates']:,}", f"{card['minutes']:g}")
        table.add_row(task, shown, *counts)
    return table


def cells(game: str, made: Replays) -> list[str]:
    """Row of `table_of` for the replays of a game."""
    episodes = len(made.level)
    error = made.episode_return.std(ddof=1) / episodes**0.5 if episodes > 1 else float("nan")
    return [
        game,
        f"{made.frames:,}",
        f"{episodes:,}",
        f"{len(made.dropped):,}",
        f"{made.episode_return.mean():.2f} ± {error:.2f}",
        f"{PAPER_EXPERT[game]:.1f}",
        f"{made.change_rate:.3f}",
    ]
