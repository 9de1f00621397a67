"""How much of the expert's return is recovered in given minutes: trains and writes the table, unattended.

python experiments/recovery.py                          # 16 games of Procgen: 15 minutes each, and six for cloning
python experiments/recovery.py --minutes 60 --envs procgen:bossfight procgen:miner --seeds 0 1 2
python experiments/recovery.py --envs continuous        # the paper's twelve continuous tasks
python experiments/recovery.py --methods bcv-lr         # without cloning the true actions

recovery = (agent - random) / (expert - random). `bc-true-actions` clones the expert's true actions, with the same
networks and videos and 800 updates for each of the minutes, about as many as a run of BCV-LR clones with in all on two
cores: the difference is what naming the actions costs. Finished runs are skipped, and stopped ones are resumed. Rows
go to results/recovery.jsonl as runs finish, and the tables of Procgen to docs/quick.md. What cloning the true actions
of a bundled expert recovers in 15 minutes' updates is its imitability, which `python -m bcvlr_fast.expert --list`
shows; it goes to experts/procgen/imitability.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bcvlr_fast.envs import PROCGEN_GAMES, parse_name
from bcvlr_fast.evaluation.evaluation import AGENTS
from bcvlr_fast.experts import find_expert
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError
from collect_runs import Row, interval, keep, markdown, read_rows, row_of, table

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "results" / "recovery.jsonl"
QUICK = ROOT / "docs" / "quick.md"
IMITABILITY = ROOT / "bcvlr_fast" / "experts" / "procgen" / "imitability.json"
PROCGEN = tuple(f"procgen:{game}" for game in PROCGEN_GAMES)
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
GROUPS = {"procgen": PROCGEN, "continuous": CONTINUOUS}
METHODS = ("bcv-lr", "bc-true-actions")
_CLONING_UPDATES_PER_MINUTE = 800
IMITABILITY_MINUTES = 15
ACTING = "unstuck"
"""How the policies act whose recovery is compared."""


def main(envs: list[str], methods: list[str], minutes: float, seeds: list[int], out: Path) -> None:
    """Trains, stores a row for each run, writes and prints tables. Raises UserError at the end if a run failed."""
    failed = []
    for seed in seeds:
        for env in envs:
            expert = find_expert(env).name
            for method in methods:
                folder = (
                    out / f"{env.replace(':', '-')}-{expert.removeprefix('replays-')}-{method}-{minutes:g}min-s{seed}"
                )
                if not (folder / "status.json").exists() and train(env, method, minutes, seed, folder):
                    failed.append(f"{env} ({method}, seed {seed})")
                    continue
                row = {**row_of(folder), "expert": expert, "minutes_given": minutes}
                keep(ROWS, row)
                if (method, minutes, seed) == ("bc-true-actions", IMITABILITY_MINUTES, 0) and env in PROCGEN:
                    keep_imitability(row)
                write_tables()
    print(table(read_rows(ROWS)))
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


def train(env: str, method: str, minutes: float, seed: int, folder: Path) -> int:
    """Trains and returns the exit code; the run saves its state if this program is stopped."""
    chosen = ["--env", env, "--method", method, "--preset", "quick", "--minutes", f"{minutes:g}", "--seed", str(seed)]
    if method == "bc-true-actions":
        chosen += ["--policy.updates", str(round(_CLONING_UPDATES_PER_MINUTE * minutes))]
    command = ["-m", "bcvlr_fast.train", *chosen, "--resume", "auto", "--out", str(folder)]
    child = subprocess.Popen([sys.executable, *command])
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise


def keep_imitability(row: Row) -> None:
    """Writes what cloning the true actions of a bundled expert recovers."""
    measured = json.loads(IMITABILITY.read_text())
    recovery = {name: round(value, 3) for name, value in row["recovery"][ACTING].items()}
    _, game = parse_name(row["env"])
    measured[game] = {"expert": row["expert"], **recovery, "cpu": row["machine"]["cpu"]}
    IMITABILITY.write_text(json.dumps(dict(sorted(measured.items())), indent=1) + "\n")


def current_rows() -> list[Row]:
    """The rows of Procgen's games with the experts that are bundled now, by game, minutes and seed."""
    experts = {env: find_expert(env).name for env in PROCGEN}
    rows = [row for row in read_rows(ROWS) if experts.get(row["env"]) == row["expert"]]
    return sorted(rows, key=lambda row: (row["env"], row["minutes_given"], row["seed"]))


def write_tables() -> None:
    """Writes the tables of the documentation anew, in place of those with the same heads."""
    text, rows = QUICK.read_text(), current_rows()
    for new in (score_table(rows), health_table(rows)):
        before, _, old = text.partition(new.partition("\n")[0])
        after = old.partition("\n\n")[2]
        text = f"{before}{new}\n\n{after}"
    QUICK.write_text(text)


def score_table(rows: list[Row]) -> str:
    """Markdown table of the scores of BCV-LR, beside what cloning the true actions recovers."""
    cloned = {_key(row): row["recovery"].get(ACTING) for row in rows if row["method"] == "bc-true-actions"}
    scores = ("random", "expert", ACTING)
    cells = []
    for row in _learned(rows):
        shown = [interval(row["scores"].get(name)) for name in scores]
        shown += [interval(row["recovery"].get(name)) for name in AGENTS]
        cells.append([*_about(row), _machine(row), *shown, interval(cloned.get(_key(row)))])
    named = [f"recovery, {name}" for name in AGENTS]
    return markdown(["game", "minutes", "seed", "machine", *scores, *named, f"true actions, {ACTING}"], cells)


def health_table(rows: list[Row]) -> str:
    """Markdown table of what each phase has learned."""
    head = ("own actions by d(p)", "entropy explained", "the expert's actions by d(p)", "by the policy")
    cells = []
    for row in _learned(rows):
        own = f"{row['own_decoder_accuracy']:.0%} ({row['own_accuracy_of_one_answer']:.0%})"
        labels = [f"{row[f'labelling_{name}']:.0%}" for name in ("information", "accuracy")]
        agreed = f"{row['policy_accuracy']:.0%} ({row['commonest_action']:.0%})"
        cells.append([*_about(row), own, *labels, agreed])
    return markdown(["game", "minutes", "seed", *head], cells)


def _learned(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["method"] == "bcv-lr"]


def _about(row: Row) -> list[str]:
    return [parse_name(row["env"])[1], f"{row['minutes']:.1f} of {row['minutes_given']:g}", str(row["seed"])]


def _machine(row: Row) -> str:
    """Short name of the CPU, and the precision there."""
    cpu = row["machine"]["cpu"].replace("(R)", "").removesuffix(" Processor")
    return f"{cpu}, {row['machine']['precision']}"


def _key(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in ("env", "expert", "minutes_given", "seed"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["procgen"], help="environments, or procgen or continuous")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--minutes", type=float, default=IMITABILITY_MINUTES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/recovery"))
    given = parser.parse_args()
    named = [env for name in given.envs for env in GROUPS.get(name, (name,))]
    sys.exit(call(lambda: main(named, given.methods, given.minutes, given.seeds, given.out)))
