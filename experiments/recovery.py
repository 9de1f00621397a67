"""How much of the expert's return is recovered in given minutes: trains and prints the table, unattended.

python experiments/recovery.py                                   # 16 Procgen games, 15 minutes each, and 5 for cloning
python experiments/recovery.py --minutes 60 --envs procgen:bossfight procgen:miner
python experiments/recovery.py --envs dmc:finger_spin --without-true-actions --seeds 0 1 2

recovery = (agent - random) / (expert - random). After each run, the expert's true actions are cloned with the same
networks and videos and as many updates as the run cloned with; the difference is what naming the actions costs.
Finished runs are skipped, and stopped ones are resumed. Rows go to results/recovery.jsonl as runs finish.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bcvlr_fast.envs import PROCGEN_GAMES
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.registry import read_config
from bcvlr_fast.runs.arguments import PLAN
from bcvlr_fast.runs.run import CONFIG
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError

ROWS = Path(__file__).parents[1] / "results" / "recovery.jsonl"
_KEY = ("env", "method", "minutes_given", "seed", "videos")


def main(envs: list[str], minutes: float, seeds: list[int], out: Path, more: list[str], *, true_actions: bool) -> None:
    """Trains, stores a row for each run, and prints the table. Raises UserError at the end if a run failed."""
    failed = []
    for seed in seeds:
        for env in envs:
            name, common = f"{env.replace(':', '-')}-{{}}-{minutes:g}min-s{seed}", ["--env", env, "--seed", str(seed)]
            folder = out / name.format("bcv-lr")
            done = train([*common, "--minutes", f"{minutes:g}", *more], folder, minutes)
            if done and true_actions:
                updates = ["--method", "bc-true-actions", "--policy.updates", str(cloning_updates(folder))]
                done = train([*common, *updates, *more], out / name.format("bc-true-actions"), minutes)
            if not done:
                failed.append(f"{env} (seed {seed})")
    print(table([json.loads(line) for line in ROWS.read_text().splitlines()]))
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


def train(command: list[str], folder: Path, minutes: float) -> bool:
    """Trains unless the folder has a finished run, and stores its row; the run saves its state if this program is
    stopped. False if it fails."""
    if not (folder / "status.json").exists():
        training = ["-m", "bcvlr_fast.train", *command, "--preset", "quick", "--resume", "auto", "--out", str(folder)]
        child = subprocess.Popen([sys.executable, *training])
        try:
            if child.wait():
                return False
        except BaseException:
            child.terminate()
            child.wait()
            raise
    keep(row_of(folder, minutes))
    return True


def cloning_updates(folder: Path) -> int:
    """Cloning updates of a run of BCV-LR, in all phases."""
    config = read_config(folder / CONFIG, Config)
    return config.policy.updates + config.online.rounds * config.online.clone_updates + config.final.updates


def row_of(folder: Path, minutes: float) -> dict[str, Any]:
    """The row of a finished run, which belongs to runs of `minutes`."""
    config, evaluation, status, machine = (
        json.loads((folder / name).read_text())
        for name in ("config.json", "evaluation.json", "status.json", "environment.json")
    )
    plan = json.loads((folder / PLAN).read_text()) if (folder / PLAN).exists() else {}
    return {
        "env": config["env"][0],
        "method": config["method"],
        "minutes_given": minutes,
        "seed": config["seed"],
        "videos": ",".join(Path(path).name for path in config["videos"]) or "bundled expert",
        "expert_frames": config["expert_frames"],
        "scores": evaluation["scores"],
        "recovery": evaluation["recovery"],
        **status,
        "counts": plan.get("counts", {"policy.updates": config["policy"]["updates"]}),
        "cost_ms": plan.get("cost_ms", {}),
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
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/recovery"))
    parser.add_argument("--without-true-actions", action="store_true")
    arguments, rest = parser.parse_known_args()
    chosen = list(arguments.envs), arguments.minutes, arguments.seeds, arguments.out, rest
    sys.exit(call(lambda: main(*chosen, true_actions=not arguments.without_true_actions)))
