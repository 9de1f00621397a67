"""Records an expert of an environment as a video dataset: the bundled one, or a file of your own.

python -m bcvlr_fast.record --env procgen:bossfight
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bcvlr_fast.envs import parse_name
from bcvlr_fast.experts import behaviors as behaviours
from bcvlr_fast.experts import replays
from bcvlr_fast.experts.recorder import default_folder, record, record_expert
from bcvlr_fast.system.command import run_command
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import MANIFEST


@dataclass(frozen=True)
class Arguments:
    """Record an expert's replays as videos: frames for training, labels for evaluation apart from them."""

    env: str = "procgen:bossfight"
    """suite:task, such as procgen:bossfight."""
    replays: Path | None = None
    """Replays or weights that `bcvlr_fast.expert` made; without it the bundled ones of the environment."""
    frames: int = 100_000
    """Frames to record, in whole episodes, where the expert plays anew; replays are recorded whole."""
    steps: int = 0
    """Of each of its episodes, the steps to record, from the first; 0: all, or in MetaWorld 20 after success."""
    rendering: Literal["auto", "stock", "fast"] = "auto"
    """How MuJoCo draws them."""
    out: Path | None = None
    """Dataset folder; the default, under the cache folder, is named by what the recording depends on."""
    force: bool = False
    """Record again where the dataset exists."""


def main(arguments: Arguments) -> None:
    """The command."""
    suite, task = parse_name(arguments.env)
    screen, file, out = Screen(), arguments.replays, arguments.out
    if arguments.frames < 1:
        raise UserError(f"frames: expected >= 1, got {arguments.frames}")
    if arguments.steps < 0:
        raise UserError(f"steps: expected >= 0, got {arguments.steps}")
    if out and out.exists():
        if not (out / MANIFEST).exists():
            raise UserError(f"out: {out} exists and is not a dataset")
        if not arguments.force:
            raise UserError(f"out: {out} exists (--force records it again)")
    if suite == "procgen":
        source = replays.load_file(file, task) if file else replays.load(task)
        folder = out or default_folder(arguments.env, source)
        record(arguments.env, source, folder, screen, force=arguments.force)
    else:
        expert = behaviours.load_file(file, arguments.env) if file else behaviours.load(arguments.env)
        frames, steps = arguments.frames, arguments.steps
        folder = record_expert(expert, frames, steps, arguments.rendering, screen, out, force=arguments.force)
    screen.say(f"videos: {folder}")


if __name__ == "__main__":
    run_command(main, Arguments)
