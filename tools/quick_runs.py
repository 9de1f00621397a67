"""Trains every Procgen game, or the twelve continuous tasks, at scale quick, unattended, and prints the table.

python tools/quick_runs.py                       # all 16 games, about ten minutes each on two cores
python tools/quick_runs.py --continuous          # eight tasks of DMControl and four of MetaWorld
python tools/quick_runs.py --envs procgen:maze dmc:finger_spin --seed 1

Finished runs are skipped, and stopped ones are resumed. Rows go to results/quick_games.jsonl, or for continuous tasks
to results/quick_continuous.jsonl.
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
"""The twelve tasks of the paper."""
_LEARNED = 0.5
_MIN_INFORMATION = 0.1


def main(envs: list[str], seed: int, out: Path) -> None:
    """Trains on each environment, stores one row each, and prints them. Raises UserError at the end if any failed."""
    failed, files = [], set()
    for env in envs:
        folder = out / f"{env.partition(':')[2]}-s{seed}"
        if not (folder / "status.json").exists() and (code := train(env, seed, folder)):
            failed.append(f"{env} (exit code {code})")
            continue
        file = RESULTS / f"quick_{'continuous' if spec(env).actions.continuous else 'games'}.jsonl"
        keep(file, {**row_of(folder), **(continuous_figures if "continuous" in file.name else diagnosis)(folder)})
        files.add(file)
    for file in sorted(files):
        rows = sorted(map(json.loads, file.read_text().splitlines()), key=lambda row: (row["env"], row["seed"]))
        print(table(rows))
        (print_continuous if "continuous" in file.name else print_diagnosis)(rows)
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


def print_diagnosis(rows: list[dict[str, Any]]) -> None:
    """Prints a table of the phase that limits each game."""
    columns = "decoder accuracy, own transitions | entropy of expert actions explained | decoder accuracy, expert"
    print(f"\n| environment | {columns} | limited by |")
    print("|---|---|---|---|---|")
    for row in rows:
        own = f"{row['own_accuracy']:.0%} (commonest {row['own_commonest']:.0%})"
        expert = f"{row['labelling_information']:.0%} | {row['labelling_accuracy']:.0%}"
        print(f"| {row['env']} | {own} | {expert} | {row['held_back_by']} |")


def print_continuous(rows: list[dict[str, Any]]) -> None:
    """Prints a table of the fraction of the variance of actions that is explained."""
    print(
        "\n| environment | own actions by d(p) | the expert's by d(p) | the expert's by the policy |\n|---|---|---|---|"
    )
    for row in rows:
        names = ("own_explained", "labelling_explained", "policy_explained")
        print(f"| {row['env']} | {' | '.join(f'{row[name]:.0%}' for name in names)} |")


def train(env: str, seed: int, folder: Path) -> int:
    """Runs training and returns its exit code; the run saves its state if this program is stopped."""
    command = ["-m", "bcvlr_fast.train", "--env", env, "--preset", "quick", "--seed", str(seed)]
    child = subprocess.Popen([sys.executable, *command, "--resume", "auto", "--out", str(folder)])
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise


def keep(file: Path, row: dict[str, Any]) -> None:
    """Adds a row; it replaces one of the same environment and seed."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows = [old for old in rows if (old["env"], old["seed"]) != (row["env"], row["seed"])] + [row]
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))


def continuous_figures(folder: Path) -> dict[str, Any]:
    """Explained fractions of the variance of actions: own ones, by the last decoder, and those of the expert."""
    rounds = [row for row in logger.read_metrics(folder) if "decoder_variance_explained" in row]
    health = json.loads((folder / HEALTH).read_text())
    figures = {name: health[name] for name in ("labelling_explained", "policy_explained")}
    return {"own_explained": rounds[-1]["decoder_variance_explained"], **figures}


def diagnosis(folder: Path) -> dict[str, Any]:
    """The phase that limits a run: the first one whose figures are at chance.

    Decoder accuracy, on own transitions and on held-out windows of the expert, measures fine-tuning. The information
    that decoded actions contain about the true ones measures the latent actions. If all are above chance, cloning is
    the limit.
    """
    rounds = [row for row in logger.read_metrics(folder) if "decoder_accuracy" in row]
    own, commonest = (rounds[-1][name] for name in ("decoder_accuracy", "accuracy_of_one_answer"))
    health = json.loads((folder / HEALTH).read_text())
    information, accuracy = health["labelling_information"], health["labelling_accuracy"]
    scores = json.loads((folder / "evaluation.json").read_text())["scores"]
    sampled, chance, expert = (scores[name]["mean"] for name in ("sampled", "random", "expert"))
    if sampled - chance > _LEARNED * (expert - chance):
        limit = "nothing"
    elif own <= commonest:
        limit = "fine-tuning: the decoder is at chance on own actions"
    elif information < _MIN_INFORMATION:
        limit = (
            "latent actions: what is decoded from the expert's windows contains little information about its actions"
        )
    elif accuracy <= health["commonest_action"]:
        limit = "fine-tuning: decoder accuracy on the expert's actions does not exceed the majority class"
    else:
        limit = "cloning: actions are decoded, but the policy does not follow them"
    figures = {
        "own_accuracy": own,
        "own_commonest": commonest,
        "labelling_information": information,
        "labelling_accuracy": accuracy,
    }
    return {**figures, "held_back_by": limit}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=GAMES)
    parser.add_argument("--continuous", action="store_const", const=CONTINUOUS, dest="envs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/quick"))
    arguments = parser.parse_args()
    sys.exit(call(lambda: main(list(arguments.envs), arguments.seed, arguments.out)))
