"""Learns a policy from expert videos and reward-free interaction.

python -m bcvlr_fast.train --env procgen:bossfight
"""

from __future__ import annotations

import dataclasses
import sys
import time

from bcvlr_fast import config
from bcvlr_fast.config import Config
from bcvlr_fast.runs.arguments import _updates, announce, resolve
from bcvlr_fast.system.command import call


def main(argv: list[str]) -> None:
    """The command."""
    start = time.monotonic()
    arguments, folder, why = resolve(argv)
    profiled = _updates(arguments.profile)
    settings = Config(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Config)})
    if arguments.print_config:
        print(config.to_json(settings))
        return
    from bcvlr_fast.runs.start import start_run
    from bcvlr_fast.system.screen import Screen

    screen = Screen()
    announce(settings, folder, why, screen)
    start_run(
        settings,
        folder,
        screen,
        track=arguments.track,
        start=start,
        profiled=profiled,
        dry_run=arguments.dry_run,
    )


if __name__ == "__main__":
    sys.exit(call(lambda: main(sys.argv[1:])))
