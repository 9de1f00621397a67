"""Stores one row per finished run in a results file (scores, health, machine, commit, date) and prints it as a table.

python experiments/collect_runs.py results/quick_experiments.jsonl runs/procgen-bossfight/*
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bcvlr_fast.config.files import to_json
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.evaluation.evaluation import AGENTS
from bcvlr_fast.evaluation.report import HEALTH
from bcvlr_fast.methods.registry import preset_for, read_config
from bcvlr_fast.runs.arguments import PLAN
from bcvlr_fast.runs.run import CONFIG
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training.metrics_log import read_metrics

Row = dict[str, Any]

RUN = ("env", "method", "preset", "minutes_given", "seed", "videos", "expert", "labels", "pretrained_on", "changed")
"""What tells runs apart: a row replaces one that equals it in these."""
_OWN = ("decoder_accuracy", "accuracy_of_one_answer", "decoder_variance_explained")
"""Of the last round: how well d(p) predicts own actions, before it is fine-tuned on them."""
_EXPERT = (
    "labelling_information",
    "labelling_accuracy",
    "policy_accuracy",
    "commonest_action",
    "labelling_explained",
    "policy_explained",
)
"""Of health.json: labels and the policy on held-out frames of the expert."""
_APART = {"seed", "device", "videos", "labels", "rendering"}
"""Settings that have a place of their own in the row, or none."""


def row_of(folder: Path) -> Row:
    """The row of a finished run. Raises UserError if it has not finished."""
    if not (folder / "status.json").is_file():
        raise UserError(f"{folder}: not a finished run")
    settings = read_config(folder / CONFIG, RunConfig)
    evaluation = _read(folder / "evaluation.json")
    shared, plan = folder.parent / "pretraining" / CONFIG, _read(folder / PLAN)
    last_round: Row = next((row for row in reversed(read_metrics(folder)) if row.get("stage") == "round"), {})
    health = _read(folder / HEALTH)
    planned = plan.get("counts", {})
    return {
        "env": settings.first_env,
        "method": settings.method,
        "preset": settings.preset,
        "minutes_given": plan.get("minutes"),
        "seed": settings.seed,
        "videos": ",".join(path.name for path in settings.videos) or "bundled expert",
        "labels": settings.labels.name if settings.labels else None,
        "pretrained_on": ",".join(read_config(shared, RunConfig).env) if shared.exists() else settings.first_env,
        "score": evaluation["score"],
        "scores": evaluation["scores"],
        "video_norm": evaluation["video_norm"],
        "recovery": evaluation["recovery"],
        **{f"own_{name}": last_round[name] for name in _OWN if name in last_round},
        **{name: health[name] for name in _EXPERT if name in health},
        **_read(folder / "status.json"),
        "counts": planned,
        "cost_ms": plan.get("cost_ms", {}),
        "changed": changed(settings, apart=planned),
        "machine": _read(folder / "environment.json"),
    }


def changed(settings: RunConfig, apart: Collection[str] = ()) -> Row:
    """The settings that differ from the preset's, but for `apart` (dotted names) and what the row has elsewhere."""
    base = preset_for(settings.method)(settings.env, settings.preset).config
    found = _differing(json.loads(to_json(settings)), json.loads(to_json(base)), "")
    return {name: value for name, value in found.items() if name not in {*apart, *_APART}}


def _differing(own: Row, base: Row, prefix: str) -> Row:
    found: Row = {}
    for name, value in own.items():
        if isinstance(value, dict):
            found |= _differing(value, base[name], f"{prefix}{name}.")
        elif value != base[name]:
            found[prefix + name] = value
    return found


def _read(file: Path) -> Row:
    """Contents of a JSON file; nothing if the run has none."""
    contents: Row = json.loads(file.read_text()) if file.exists() else {}
    return contents


def read_rows(file: Path) -> list[Row]:
    """The rows of a results file, which need not exist."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep(file: Path, row: Row) -> None:
    """Adds a row to a results file; it replaces one of the same run."""
    others = [old for old in read_rows(file) if any(old.get(name) != row.get(name) for name in RUN)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(each) + "\n" for each in [*others, row]))


def table(rows: list[Row]) -> str:
    """Markdown table of the scores with 95 % intervals. Continuous policies have greedy scores only."""
    scores = ("random", *AGENTS, "expert")
    head = ["environment", "method", "minutes", "seed", *scores, *(f"recovery, {name}" for name in AGENTS)]
    lines = []
    for row in sorted(rows, key=lambda each: (each["env"], each["minutes"], each["seed"])):
        cells = [str(row.get(name, "")) for name in ("env", "method", "minutes", "seed")]  # old rows lack the method
        cells += [interval(row["scores"].get(name)) for name in scores]
        cells += [interval(row.get("recovery", {}).get(name)) for name in AGENTS]
        lines.append(cells)
    return markdown(head, lines)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def interval(score: dict[str, float] | None) -> str:
    """A mean with its interval; nothing for a score that does not exist."""
    return f"{score['mean']:.2f} ({score['low']:.2f} .. {score['high']:.2f})" if score else ""


def main(target: Path, folders: list[Path]) -> None:
    """Stores the rows in `target` and prints the table of all its rows."""
    for row in [row_of(folder) for folder in folders]:
        keep(target, row)
    print(table(read_rows(target)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("run", type=Path, nargs="+")
    arguments = parser.parse_args()
    sys.exit(call(lambda: main(arguments.target, arguments.run)))
