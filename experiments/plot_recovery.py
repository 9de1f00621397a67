"""Draws what the rows of results/recovery.jsonl say: recovery over minutes, and by game after 15 minutes.

python experiments/plot_recovery.py docs/recovery.png
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bcvlr_fast.system.command import call
from collect_runs import Row
from recovery import ACTING, IMITABILITY_MINUTES, PROCGEN, current_rows

_COLORS = {"bcv-lr": "C0", "bc-true-actions": "0.75"}
_NAMES = {"bcv-lr": "BCV-LR, from videos alone", "bc-true-actions": "cloning of the true actions"}


def main(file: Path) -> None:
    """Draws the rows of the experts that are bundled now."""
    rows = current_rows()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(1, 1.7), layout="constrained")
    over_minutes(left, [row for row in rows if row["method"] == "bcv-lr"])
    by_game(right, [row for row in rows if row["minutes_given"] == IMITABILITY_MINUTES])
    figure.savefig(file, dpi=110)


def over_minutes(axes: Axes, rows: list[Row]) -> None:
    """Recovery of the games that were given more than one time: the mean of the seeds, and each of them as a point."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["env"]][row["minutes_given"]].append(row["recovery"][ACTING]["mean"])
    shown = {env: by_minutes for env, by_minutes in found.items() if len(by_minutes) > 1}
    for number, (env, by_minutes) in enumerate(sorted(shown.items())):
        minutes = sorted(by_minutes)
        means = [statistics.mean(by_minutes[each]) for each in minutes]
        axes.plot(minutes, means, color=f"C{number}", label=env.partition(":")[2])
        points = [(each, value) for each in minutes for value in by_minutes[each]]
        axes.plot(*zip(*points, strict=True), ".", color=f"C{number}")
    axes.set(xscale="log", xlabel="minutes on two CPU cores", ylabel="recovery", ylim=(-0.05, 1.05))
    times = sorted({minutes for by_minutes in shown.values() for minutes in by_minutes})
    axes.set_xticks(times, [f"{each:g}" for each in times], minor=False)
    axes.minorticks_off()
    if shown:
        axes.legend(frameon=False)


def by_game(axes: Axes, rows: list[Row]) -> None:
    """Recovery of both methods by game (seed 0) with 95 % intervals."""
    games = [env.partition(":")[2] for env in PROCGEN]
    for shift, method in ((-0.2, "bc-true-actions"), (0.2, "bcv-lr")):
        found = {row["env"]: row["recovery"][ACTING] for row in rows if (row["method"], row["seed"]) == (method, 0)}
        for place, env in enumerate(PROCGEN):
            if env in found:
                value = found[env]
                errors = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
                axes.bar(place + shift, value["mean"], 0.4, yerr=errors, color=_COLORS[method], ecolor="0.4")
            elif found:
                axes.text(place + shift, 0.02, "not measured", rotation=90, size="x-small", color="0.6", ha="center")
        if found:
            axes.bar(0, 0, color=_COLORS[method], label=_NAMES[method])
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set(ylabel=f"recovery after {IMITABILITY_MINUTES} minutes")
    axes.set_xticks(range(len(games)), games, rotation=60, ha="right")
    axes.legend(frameon=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    sys.exit(call(lambda: main(parser.parse_args().file)))
