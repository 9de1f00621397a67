"""Adds experts that `bcvlr_fast.expert` made to the package, and writes the table of their README.

python tools/pack_experts.py ~/.cache/bcvlr_fast/experts/procgen-maze-planner.npz procgen-bossfight-s0.safetensors

Every episode of a replay is first played in EnvPool; a network replaces the replays of its game. Without files, only
the README is written.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from bcvlr_fast.envs import parse_name
from bcvlr_fast.experts import replays, trained
from bcvlr_fast.experts.bundled import PROCGEN_COLUMNS, procgen_rows
from bcvlr_fast.experts.network import load_network
from bcvlr_fast.experts.replaying import verify
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen

FOLDER = Path(__file__).parents[1] / "bcvlr_fast" / "experts"
_MAX_BYTES = 40_000_000
_BEGIN = "| game |"


def main(files: list[Path]) -> None:
    """Checks and copies the files, and writes the README."""
    screen = Screen()
    for file in files:
        if trained.is_weights(file):
            _, game = parse_name(load_network(file)[1]["env"])
            shutil.copyfile(file, FOLDER / "procgen" / f"{game}{file.suffix}")
            (FOLDER / "procgen" / f"{game}.npz").unlink(missing_ok=True)
        else:
            found = replays.load_replays(file)
            verify(found, screen)
            found.save(FOLDER / "procgen" / f"{found.game}.npz")
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.suffix in (".npz", ".safetensors"))
    if size > _MAX_BYTES:
        raise UserError(f"experts: {size:,} bytes, expected at most {_MAX_BYTES:,}")
    rows = [f"| {' | '.join(row)} |" for row in procgen_rows()]
    card = FOLDER / "README.md"
    before, _, rest = card.read_text().partition(_BEGIN)
    head = f"| {' | '.join(PROCGEN_COLUMNS)} |"
    line, after = "|---" * len(PROCGEN_COLUMNS) + "|", rest.split("\n\n", 1)[1]
    card.write_text("\n".join([before + head, line, *rows, "", after]))
    screen.say(f"{len(rows)} games, {size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="*")
    sys.exit(call(lambda: main(parser.parse_args().file)))
