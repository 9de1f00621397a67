"""Appends one row per finished run to a results file (scores, machine, commit, date) and prints the file as a table.

python tools/collect_runs.py results/quick_procgen.jsonl runs/procgen-bossfight/*
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bcvlr_fast.config.files import to_json
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.registry import read_config
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError


def row_of(folder: Path) -> dict[str, object]:
    """Row of the run in `folder` for a results file. Raises UserError if the run has not finished."""
    if not (folder / "status.json").is_file():
        raise UserError(f"{folder}: not a finished run")
    settings = read_config(folder / "config.json", Config)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    shared = folder.parent / "pretraining" / "config.json"
    return {
        "env": settings.first_env,
        "preset": settings.preset,
        "seed": settings.seed,
        "videos": ",".join(path.name for path in settings.videos) or "bundled expert",
        "labels": settings.labels.name if settings.labels else None,
        "pretrained_on": ",".join(read_config(shared, Config).env) if shared.exists() else settings.first_env,
        "interactions": 0 if settings.labels else settings.online.interactions,
        "score": evaluation["score"],
        "scores": evaluation["scores"],
        "video_norm": evaluation["video_norm"],
        **json.loads((folder / "status.json").read_text()),
        "changed": changed(settings),
        "machine": json.loads((folder / "environment.json").read_text()),
    }


def changed(settings: Config) -> dict[str, Any]:
    """The settings that differ from the preset's, but for those that have a place of their own in the row."""
    found, base = (json.loads(to_json(c)) for c in (settings, preset(settings.first_env, settings.preset)))
    return _differing(found, base, apart={"seed", "device", "videos", "labels", "rendering"})


def _differing(own: dict[str, Any], preset: dict[str, Any], apart: Collection[str] = ()) -> dict[str, Any]:
    different = {k: v for k, v in own.items() if v != preset[k] and k not in apart}
    return {k: _differing(v, preset[k]) if isinstance(v, dict) else v for k, v in different.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of mean scores with 95 % intervals. Continuous policies have greedy scores only."""
    names = [name for name in ("random", "sampled", "greedy", "expert") if any(name in row["scores"] for row in rows)]
    judged = ["sampled" if "sampled" in row["scores"] else "greedy" for row in rows]
    policy = judged[0] if len(set(judged)) == 1 else "policy"
    lines = [
        f"| environment | seed | minutes | peak GB | {' | '.join(names)} | {policy} / expert |",
        "|---" * (len(names) + 5) + "|",
    ]
    for row, name in zip(rows, judged, strict=True):
        scores = [_cell(row["scores"].get(name)) for name in names]
        norm = row["video_norm"][name]
        cells = [row["env"], row["seed"], row["minutes"], row["peak_memory_gb"], *scores]
        lines.append(f"| {' | '.join(map(str, cells))} | {'' if norm is None else f'{norm:.2f}'} |")
    return "\n".join(lines)


def _cell(score: dict[str, float] | None) -> str:
    return "" if score is None else f"{score['mean']:.2f} ({score['low']:.2f} .. {score['high']:.2f})"


def main(target: Path, folders: list[Path]) -> None:
    """Appends missing rows to `target` and prints the table of all rows."""
    lines = [json.dumps(row_of(folder)) for folder in folders]
    rows = target.read_text().splitlines() if target.exists() else []
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a") as file:
        for line in dict.fromkeys(lines):
            if line not in rows:
                rows.append(line)
                file.write(line + "\n")
    print(table([json.loads(line) for line in rows]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("run", type=Path, nargs="+")
    arguments = parser.parse_args()
    sys.exit(call(lambda: main(arguments.target, arguments.run)))
