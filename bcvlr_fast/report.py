"""Writes a run's report: one self-contained HTML file, films, and a model card.

python -m bcvlr_fast.report runs/procgen-bossfight/20260101-120000-s0
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bcvlr_fast.evaluation import health
from bcvlr_fast.evaluation.evaluation import load_agent, videos_of
from bcvlr_fast.evaluation.report import write
from bcvlr_fast.runs import expert_videos as training_videos
from bcvlr_fast.system.command import run_command


@dataclass(frozen=True)
class Arguments:
    """Write report.html, videos/*.mp4 and README.md of a run again."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""


def main(arguments: Arguments) -> None:
    """The command."""
    agent, settings = load_agent(arguments.run)
    videos = training_videos.use(settings, videos_of(arguments.run))
    held_out = health.held_out_windows(videos, settings, agent.compute)
    write(arguments.run, agent, settings, videos, held_out)
    print(arguments.run / "report.html")


if __name__ == "__main__":
    run_command(main, Arguments)
