"""Appends one row a finished run to a results file: scores, settings that matter, machine, commit, date.

python tools/collect_runs.py results/quick_procgen.jsonl runs/procgen-bossfight/*
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path


def row(folder: Path, commit: str) -> dict[str, object]:
    """What a results file keeps of the run in `folder`."""
    settings = json.loads((folder / "config.json").read_text())
    evaluation = json.loads((folder / "evaluation.json").read_text())
    return {
        "env": settings["env"],
        "preset": settings["preset"],
        "seed": settings["seed"],
        "interactions": settings["online"]["interactions"],
        "scores": evaluation["scores"],
        "video_norm": evaluation["video_norm"],
        **json.loads((folder / "status.json").read_text()),
        "machine": json.loads((folder / "environment.json").read_text()),
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }


def main(target: Path, folders: list[Path]) -> None:
    """Appends the rows."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    with target.open("a") as file:
        for folder in folders:
            file.write(json.dumps(row(folder, commit.strip())) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
