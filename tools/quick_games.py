"""Trains every Procgen game at scale quick, one after another, unattended, and prints the table.

python tools/quick_games.py                      # all 16 games, about ten minutes each on two cores
python tools/quick_games.py --games maze heist --seed 1

A game that is done is left out, one that was stopped goes on. Rows go to results/quick_games.jsonl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from collect_runs import row_of, table

from bcvlr_fast import logger
from bcvlr_fast.command import call
from bcvlr_fast.envs import PROCGEN_GAMES
from bcvlr_fast.errors import UserError
from bcvlr_fast.report import HEALTH

ROWS = Path(__file__).parents[1] / "results" / "quick_games.jsonl"
_LEARNED = 0.5
_LEAST_INFORMATION = 0.1


def main(games: list[str], seed: int, out: Path) -> None:
    """Trains, keeps a row a game, and prints them. Raises UserError at the end for games that failed."""
    failed = []
    for game in games:
        folder = out / f"{game}-s{seed}"
        if not (folder / "status.json").exists() and (code := train(game, seed, folder)):
            failed.append(f"{game} (exit code {code})")
            continue
        keep({**row_of(folder), **diagnosis(folder)})
    rows = sorted(map(json.loads, ROWS.read_text().splitlines()), key=lambda row: (row["env"], row["seed"]))
    print(table(rows))
    print("\n| environment | names own actions | tells the expert's apart | names them right | held back by |")
    print("|---|---|---|---|---|")
    for row in rows:
        own = f"{row['own_accuracy']:.0%} (commonest {row['own_commonest']:.0%})"
        expert = f"{row['labelling_information']:.0%} | {row['labelling_accuracy']:.0%}"
        print(f"| {row['env']} | {own} | {expert} | {row['held_back_by']} |")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


def train(game: str, seed: int, folder: Path) -> int:
    """The exit code of a run, which saves itself where this program is asked to stop."""
    command = ["-m", "bcvlr_fast.train", "--env", f"procgen:{game}", "--preset", "quick", "--seed", str(seed)]
    child = subprocess.Popen([sys.executable, *command, "--resume", "auto", "--out", str(folder)])
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise


def keep(row: dict[str, Any]) -> None:
    """Adds a row, in place of the same game's with the same seed."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    rows = [old for old in rows if (old["env"], old["seed"]) != (row["env"], row["seed"])] + [row]
    ROWS.write_text("".join(json.dumps(each) + "\n" for each in rows))


def diagnosis(folder: Path) -> dict[str, Any]:
    """Which phase holds a run back: the first whose figures are at chance.

    The decoder on the run's own transitions tells of fine-tuning, and so do the names that it gives the expert's
    actions on held-out windows; what these tell of the true ones under any names, of the latent actions; where all are
    well, what is left is cloning.
    """
    rounds = [row for row in logger.read(folder) if "decoder_accuracy" in row]
    own, commonest = (rounds[-1][name] for name in ("decoder_accuracy", "commonest_action"))
    health = json.loads((folder / HEALTH).read_text())
    information, named = health["labelling_information"], health["labelling_accuracy"]
    scores = json.loads((folder / "evaluation.json").read_text())["scores"]
    sampled, chance, expert = (scores[name]["mean"] for name in ("sampled", "random", "expert"))
    if sampled - chance > _LEARNED * (expert - chance):
        blame = "nothing"
    elif own <= commonest:
        blame = "fine-tuning: the decoder is at chance on own actions"
    elif information < _LEAST_INFORMATION:
        blame = "latent actions: what is decoded from the expert's windows tells little of its actions"
    elif named <= health["commonest_action"]:
        blame = "fine-tuning: the expert's actions are named no better than the commonest one"
    else:
        blame = "cloning: actions are decoded, the policy does not follow them"
    figures = {
        "own_accuracy": own,
        "own_commonest": commonest,
        "labelling_information": information,
        "labelling_accuracy": named,
    }
    return {**figures, "held_back_by": blame}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=PROCGEN_GAMES, default=PROCGEN_GAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/quick"))
    arguments = parser.parse_args()
    sys.exit(call(lambda: main(list(arguments.games), arguments.seed, arguments.out)))
