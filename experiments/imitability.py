"""Imitability of the bundled experts of Procgen: what cloning their true actions recovers within a fixed budget.

python experiments/imitability.py                     # 16 games, three to eight minutes each on two cores
python experiments/imitability.py --games bossfight

100,000 frames, 8,000 updates of the networks of preset quick, the sampled policy, 100 episodes. A video that cannot be
imitated with the true actions cannot be imitated without them. Writes experts/procgen/imitability.json, which
`python -m bcvlr_fast.expert --list` shows; experts that were measured so are skipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bcvlr_fast.envs import PROCGEN_GAMES
from bcvlr_fast.experts import find_expert
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import machine

FILE = Path(__file__).parents[1] / "bcvlr_fast" / "experts" / "procgen" / "imitability.json"
_UPDATES, _FRAMES = 8000, 100_000


def main(games: list[str]) -> None:
    """Measures each game's expert and stores the result. Raises UserError if a run fails."""
    for game in games:
        expert = find_expert(f"procgen:{game}").name
        measured = json.loads(FILE.read_text())
        budget = {"expert": expert, "updates": _UPDATES, "frames": _FRAMES}
        if budget.items() <= measured.get(game, {}).items():
            continue
        with tempfile.TemporaryDirectory() as folder:
            recovery = measure(game, Path(folder) / "run")
        measured[game] = {**budget, **recovery, "cpu": machine()["cpu"]}
        FILE.write_text(json.dumps(dict(sorted(measured.items())), indent=1) + "\n")
        print(f"{game}: {recovery['mean']:.2f} ({recovery['low']:.2f} .. {recovery['high']:.2f})", flush=True)


def measure(game: str, folder: Path) -> dict[str, float]:
    """Recovery of the sampled policy that clones the true actions of the bundled expert."""
    counts = ["--policy.updates", str(_UPDATES), "--expert-frames", str(_FRAMES), "--films", "0"]
    command = ["--env", f"procgen:{game}", "--method", "bc-true-actions", "--preset", "quick", *counts]
    if subprocess.call([sys.executable, "-m", "bcvlr_fast.train", *command, "--out", str(folder)]):
        raise UserError(f"{game}: the run failed")
    found: dict[str, float] = json.loads((folder / "evaluation.json").read_text())["recovery"]["sampled"]
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=PROCGEN_GAMES, default=PROCGEN_GAMES)
    sys.exit(call(lambda: main(list(parser.parse_args().games))))
