"""Records an expert of an environment as a video dataset.

python -m bcvlr_fast.record --env procgen:bossfight
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bcvlr_fast.experts import find_expert
from bcvlr_fast.experts.recorder import record
from bcvlr_fast.system.command import run_command
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import MANIFEST


@dataclass(frozen=True)
class Arguments:
    """Record an expert as a video dataset: frames for training, and labels for evaluation in a file of their own."""

    env: str = "procgen:bossfight"
    """Environment as suite:task, such as procgen:bossfight."""
    replays: Path | None = None
    """File of replays or weights from `bcvlr_fast.expert`. By default the bundled expert of the environment."""
    frames: int = 100_000
    """Minimum number of frames to record, in whole episodes. Replays may have fewer."""
    steps: int = 0
    """Record only the first N steps of each episode. 0 records whole episodes, in MetaWorld up to 20 steps after
    success. Replays are of whole episodes."""
    rendering: Literal["auto", "stock", "fast"] = "auto"
    """How MuJoCo draws frames. auto is stock with a GPU and fast without one."""
    out: Path | None = None
    """Dataset folder. By default a folder in the cache whose name holds the settings of the recording."""
    force: bool = False
    """Record again if the dataset exists."""


def main(arguments: Arguments) -> None:
    """Records the expert. Raises UserError for invalid arguments."""
    screen, out = Screen(), arguments.out
    for name, minimum in (("frames", 1), ("steps", 0)):
        if getattr(arguments, name) < minimum:
            raise UserError(f"{name}: expected >= {minimum}, got {getattr(arguments, name)}")
    expert = find_expert(arguments.env, arguments.replays)
    if out and out.exists():
        if not (out / MANIFEST).exists():
            raise UserError(f"out: {out} exists and is not a dataset")
        if not arguments.force:
            raise UserError(f"out: {out} exists (--force records it again)")
    folder = record(
        expert,
        out,
        frames=arguments.frames,
        steps=arguments.steps,
        rendering=arguments.rendering,
        screen=screen,
        force=arguments.force,
    )
    screen.say(f"videos: {folder}")


if __name__ == "__main__":
    run_command(main, Arguments)
