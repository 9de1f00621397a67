"""Imports, inspects and exports expert videos.

python -m bcvlr_fast.videos import my_clips/ --env procgen:bossfight --out data
python -m bcvlr_fast.videos inspect data
python -m bcvlr_fast.videos export data --out films
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from bcvlr_fast.system.command import run_command
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos.exporting import export_videos
from bcvlr_fast.videos.importing import Options, Split, import_source
from bcvlr_fast.videos.inspection import inspect_videos
from bcvlr_fast.videos.readers.chunks import Limits


@dataclass(frozen=True)
class Import:
    """Convert videos to a dataset: mp4, mkv, webm; folders of images; npy, npz; HDF5 and Minari; LeRobot v3."""

    source: Annotated[Path, tyro.conf.Positional]
    """File or folder to import."""
    out: Path | None = None
    """Dataset folder to write. Default: a folder in the cache."""
    env: str = "procgen:bossfight"
    """Environment to learn; sets the frame size and the steps per second of the dataset."""
    fps: float | None = None
    """Frames per second to keep from sources with time stamps. Default: the environment's steps per second. 0 keeps
    every frame."""
    split: Split = "auto"
    """Where episodes begin: at the source's own marks, else at each file (auto); at each file; or at cuts between
    dissimilar frames."""
    key: str | None = None
    """Array or camera to read, if the source has several."""
    keep_labels: bool = False
    """Keep the source's actions and rewards, in a separate file for the evaluation and `train --labels`."""
    skip_bad: bool = False
    """Skip unreadable files, up to one in twenty."""
    force: bool = False
    """Replace the dataset if it exists."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Inspect:
    """Print the episodes, lengths, and still and repeated frames of a dataset, and write a contact sheet."""

    dataset: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    """PNG file to write. Default: contact_sheet.png in the dataset folder."""


@dataclass(frozen=True)
class Export:
    """Write the episodes of a dataset as video files."""

    dataset: Annotated[Path, tyro.conf.Positional]
    out: Path
    """Folder to write; created if missing."""
    episodes: int | None = None
    """Number of episodes to write, from the first. Default: all."""
    fps: float | None = None
    """Frames per second of the files. Default: the dataset's, else the environment's steps per second."""
    lossless: bool = False
    """Write bit-exact frames of the original size (H.264 in RGB, .mkv). Default: enlarged .mp4 that every player
    shows."""


def main(arguments: Import | Inspect | Export) -> None:
    """Runs the subcommand."""
    screen = Screen()
    if isinstance(arguments, Import):
        options = Options.for_env(
            arguments.env,
            arguments.fps,
            split=arguments.split,
            key=arguments.key,
            keep_labels=arguments.keep_labels,
            skip_bad=arguments.skip_bad,
            limits=arguments.limits,
        )
        import_source(arguments.source, arguments.out, options, screen, overwrite=arguments.force)
    elif isinstance(arguments, Inspect):
        inspect_videos(arguments.dataset, arguments.out or arguments.dataset / "contact_sheet.png", screen)
    else:
        export_videos(
            arguments.dataset,
            arguments.out,
            screen,
            episodes=arguments.episodes,
            fps=arguments.fps,
            lossless=arguments.lossless,
        )


if __name__ == "__main__":
    run_command(
        main,
        Annotated[Import, tyro.conf.subcommand("import")]  # type: ignore[arg-type]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Export, tyro.conf.subcommand("export")],
    )
