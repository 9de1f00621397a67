"""Writes a run's report again: one self-contained HTML file, films, and a model card.

python -m bcvlr_fast.report runs/procgen-bossfight/20260101-120000-s0
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bcvlr_fast.system.command import run_command


@dataclass(frozen=True)
class Arguments:
    """Write report.html, videos/*.mp4 and README.md of a run again."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""


def main(arguments: Arguments) -> None:
    """The command."""
    from bcvlr_fast.runs.results import report_again

    print(report_again(arguments.run))


if __name__ == "__main__":
    run_command(main, Arguments)
