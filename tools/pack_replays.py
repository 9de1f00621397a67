"""Adds replay files of `bcvlr_fast.expert` to the package, and writes their README.

python tools/pack_replays.py ~/.cache/bcvlr_fast/experts/procgen-maze-planner.npz ...

Every episode is first replayed in EnvPool. Without files, only the README is rewritten.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bcvlr_fast.experts import replays
from bcvlr_fast.experts.bundled import cells
from bcvlr_fast.experts.paper import PAPER_EXPERT
from bcvlr_fast.experts.replaying import verify
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen

FOLDER = Path(__file__).parents[1] / "bcvlr_fast" / "experts"
_MAX_BYTES = 10_000_000
_HEADS = "| game | frames | episodes | levels given up | mean return | the paper's expert | change rate |"


def main(files: list[Path]) -> None:
    """Checks and copies the files, and writes the README."""
    screen = Screen()
    for file in files:
        found = replays.load_replays(file)
        verify(found, screen)
        found.save(FOLDER / "procgen" / f"{found.game}.npz")
    size = sum(file.stat().st_size for file in (FOLDER / "procgen").iterdir())
    if size > _MAX_BYTES:
        raise UserError(f"replays: {size:,} bytes, expected at most {_MAX_BYTES:,}")
    bundled = {game: replays.load_bundled(game) for game in replays.available()}
    rows = [f"| {' | '.join(cells(game, made))} |" for game, made in bundled.items()]
    card = FOLDER / "README.md"
    before, _, rest = card.read_text().partition(_HEADS)
    after = rest.split("\n\n", 1)[1]
    card.write_text("\n".join([before + _HEADS, "|---|---|---|---|---|---|---|", *rows, "", after]))
    above = sum(made.episode_return.mean() >= PAPER_EXPERT[game] for game, made in bundled.items())
    screen.say(
        f"{len(rows)} games, {size:,} bytes; mean returns at or above the paper's expert: {above} of {len(rows)}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="*")
    sys.exit(call(lambda: main(parser.parse_args().file)))
