"""Trains every Procgen game, or the twelve continuous tasks, at scale quick, unattended, and prints the table.

python tools/quick_runs.py                       # all 16 games, about ten minutes each on two cores
python tools/quick_runs.py --continuous          # DMControl's eight tasks and MetaWorld's four
python tools/quick_runs.py --envs procgen:maze dmc:finger_spin --seed 1

A run that is done is left out, one that was stopped goes on. Rows go to results/quick_games.jsonl or, of continuous
tasks, to results/quick_continuous.jsonl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from collect_runs import row_of, table

from bcvlr_fast.envs import PROCGEN_GAMES, spec
from bcvlr_fast.evaluation.report import HEALTH
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training import metrics_log as logger

RESULTS = Path(__file__).parents[1] / "results"
GAMES = tuple(f"procgen:{game}" for game in PROCGEN_GAMES)
CONTINUOUS = (
    "dmc:point_mass_easy",
    "dmc:reacher_easy",
    "dmc:reacher_hard",
    "dmc:finger_spin",
    "dmc:ball_in_cup_catch",
    "dmc:cheetah_run_backward",
    "dmc:jaco_reach_top_right",
    "dmc:jaco_reach_bottom_left",
    "metaworld:faucet-open",
    "metaworld:faucet-close",
    "metaworld:reach",
    "metaworld:drawer-open",
)
"""The paper's twelve."""
_LEARNED = 0.5
_MIN_INFORMATION = 0.1


def main(envs: list[str], seed: int, out: Path) -> None:
    """Trains, keeps a row each, and prints them. Raises UserError at the end for those that failed."""
    failed, kept = [], set()
    for env in envs:
        folder = out / f"{env.partition(':')[2]}-s{seed}"
        if not (folder / "status.json").exists() and (code := train(env, seed, folder)):
            failed.append(f"{env} (exit code {code})")
            continue
        file = RESULTS / f"quick_{'continuous' if spec(env).actions.continuous else 'games'}.jsonl"
        keep(file, {**row_of(folder), **(continuous_figures if "continuous" in file.name else diagnosis)(folder)})
        kept.add(file)
    for file in sorted(kept):
        rows = sorted(map(json.loads, file.read_text().splitlines()), key=lambda row: (row["env"], row["seed"]))
        print(table(rows))
        (print_continuous if "continuous" in file.name else print_diagnosis)(rows)
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


def print_diagnosis(rows: list[dict[str, Any]]) -> None:
    """A table of what holds the games back."""
    print("\n| environment | names own actions | tells the expert's apart | names them right | held back by |")
    print("|---|---|---|---|---|")
    for row in rows:
        own = f"{row['own_accuracy']:.0%} (commonest {row['own_commonest']:.0%})"
        expert = f"{row['labelling_information']:.0%} | {row['labelling_accuracy']:.0%}"
        print(f"| {row['env']} | {own} | {expert} | {row['held_back_by']} |")


def print_continuous(rows: list[dict[str, Any]]) -> None:
    """A table of how much of the variance of actions is explained."""
    print(
        "\n| environment | own actions by d(p) | the expert's by d(p) | the expert's by the policy |\n|---|---|---|---|"
    )
    for row in rows:
        names = ("own_explained", "labelling_explained", "policy_explained")
        print(f"| {row['env']} | {' | '.join(f'{row[name]:.0%}' for name in names)} |")


def train(env: str, seed: int, folder: Path) -> int:
    """The exit code of a run, which saves itself where this program is asked to stop."""
    command = ["-m", "bcvlr_fast.train", "--env", env, "--preset", "quick", "--seed", str(seed)]
    child = subprocess.Popen([sys.executable, *command, "--resume", "auto", "--out", str(folder)])
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise


def keep(file: Path, row: dict[str, Any]) -> None:
    """Adds a row, in place of the same environment's with the same seed."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows = [old for old in rows if (old["env"], old["seed"]) != (row["env"], row["seed"])] + [row]
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))


def continuous_figures(folder: Path) -> dict[str, Any]:
    """Shares of the variance of actions that are explained: of own ones, by the last decoder, and of the expert's."""
    rounds = [row for row in logger.read(folder) if "decoder_variance_explained" in row]
    health = json.loads((folder / HEALTH).read_text())
    figures = {name: health[name] for name in ("labelling_explained", "policy_explained")}
    return {"own_explained": rounds[-1]["decoder_variance_explained"], **figures}


def diagnosis(folder: Path) -> dict[str, Any]:
    """Which phase holds a run back: the first whose figures are at chance.

    The decoder on the run's own transitions tells of fine-tuning, and so do the names that it gives the expert's
    actions on held-out windows; what these tell of the true ones under any names, of the latent actions; where all are
    well, what is left is cloning.
    """
    rounds = [row for row in logger.read(folder) if "decoder_accuracy" in row]
    own, commonest = (rounds[-1][name] for name in ("decoder_accuracy", "accuracy_of_one_answer"))
    health = json.loads((folder / HEALTH).read_text())
    information, named = health["labelling_information"], health["labelling_accuracy"]
    scores = json.loads((folder / "evaluation.json").read_text())["scores"]
    sampled, chance, expert = (scores[name]["mean"] for name in ("sampled", "random", "expert"))
    if sampled - chance > _LEARNED * (expert - chance):
        blame = "nothing"
    elif own <= commonest:
        blame = "fine-tuning: the decoder is at chance on own actions"
    elif information < _MIN_INFORMATION:
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
    parser.add_argument("--envs", nargs="+", default=GAMES)
    parser.add_argument("--continuous", action="store_const", const=CONTINUOUS, dest="envs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/quick"))
    arguments = parser.parse_args()
    sys.exit(call(lambda: main(list(arguments.envs), arguments.seed, arguments.out)))
