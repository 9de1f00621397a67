"""How much of the expert's return is recovered in given minutes: trains and prints the table, unattended.

python experiments/recovery.py                                   # 16 Procgen games, 15 minutes each, two methods
python experiments/recovery.py --minutes 60 --envs procgen:bossfight procgen:miner
python experiments/recovery.py --envs dmc:finger_spin --methods bcv-lr --seeds 0 1 2

recovery = (agent - random) / (expert - random). Cloning the expert's true actions with the same networks, videos and
minutes shows what naming the actions costs. Finished runs are skipped, and stopped ones are resumed. Rows go to
results/recovery.jsonl as runs finish.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bcvlr_fast.envs import PROCGEN_GAMES
from bcvlr_fast.runs.arguments import PLAN
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError

ROWS = Path(__file__).parents[1] / "results" / "recovery.jsonl"
METHODS = ("bc-true-actions", "bcv-lr")
_KEY = ("env", "method", "minutes_given", "seed", "videos")


def main(envs: list[str], methods: list[str], minutes: float, seeds: list[int], out: Path, more: list[str]) -> None:
    """Trains, stores one row each, and prints the table. Raises UserError at the end if a run failed."""
    failed = []
    for seed in seeds:
        for env in envs:
            for method in methods:
                folder = out / f"{env.replace(':', '-')}-{method}-{minutes:g}min-s{seed}"
                command = ["--env", env, "--method", method, "--minutes", f"{minutes:g}", "--seed", str(seed), *more]
                if not (folder / "status.json").exists() and (code := train(command, folder)):
                    failed.append(f"{env} {method} (exit code {code})")
                    continue
                keep(row_of(folder))
    print(table([json.loads(line) for line in ROWS.read_text().splitlines()]))
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


def train(command: list[str], folder: Path) -> int:
    """Runs training and returns its exit code; the run saves its state if this program is stopped."""
    training = ["-m", "bcvlr_fast.train", *command, "--preset", "quick", "--resume", "auto", "--out", str(folder)]
    child = subprocess.Popen([sys.executable, *training])
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise


def row_of(folder: Path) -> dict[str, Any]:
    """The row of a finished run."""
    config, plan, evaluation, status, machine = (
        json.loads((folder / name).read_text())
        for name in ("config.json", PLAN, "evaluation.json", "status.json", "environment.json")
    )
    return {
        "env": config["env"][0],
        "method": config["method"],
        "minutes_given": plan["minutes"],
        "seed": config["seed"],
        "videos": ",".join(Path(path).name for path in config["videos"]) or "bundled expert",
        "expert_frames": config["expert_frames"],
        "scores": evaluation["scores"],
        "recovery": evaluation["recovery"],
        **status,
        "counts": plan["counts"],
        "cost_ms": plan["cost_ms"],
        "machine": machine,
    }


def keep(row: dict[str, Any]) -> None:
    """Adds a row; it replaces one of the same run."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    rows = [old for old in rows if any(old[name] != row[name] for name in _KEY)] + [row]
    ROWS.write_text("".join(json.dumps(each) + "\n" for each in rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of the rows, with the recovery of the sampled and of the greedy policy."""
    columns = (
        "environment | method | minutes | seed | random | sampled | greedy | expert | recovery, sampled | greedy | CPU"
    )
    lines = [f"| {columns} |", "|---" * 11 + "|"]
    for row in sorted(rows, key=lambda each: (each["env"], each["minutes_given"], each["method"], each["seed"])):
        scores = [_score(row["scores"].get(name)) for name in ("random", "sampled", "greedy", "expert")]
        recovery = [_recovery(row["recovery"].get(name)) for name in ("sampled", "greedy")]
        about = [row["env"], row["method"], row["minutes"], row["seed"]]
        lines.append(f"| {' | '.join(map(str, [*about, *scores, *recovery, row['machine']['cpu']]))} |")
    return "\n".join(lines)


def _score(score: dict[str, float] | None) -> str:
    return f"{score['mean']:.2f} ({score['low']:.2f} .. {score['high']:.2f})" if score else ""


def _recovery(recovery: dict[str, float] | None) -> str:
    return f"{recovery['mean']:.2f} ({recovery['low']:.2f} .. {recovery['high']:.2f})" if recovery else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=[f"procgen:{game}" for game in PROCGEN_GAMES])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/recovery"))
    arguments, rest = parser.parse_known_args()
    chosen = list(arguments.envs), list(arguments.methods), arguments.minutes, arguments.seeds, arguments.out, rest
    sys.exit(call(lambda: main(*chosen)))
