"""Learns a policy from expert videos and reward-free interaction.

python -m bcvlr_fast.train --env procgen:bossfight
"""

from __future__ import annotations

import sys
import time
import types
from typing import Any

from bcvlr_fast.config.files import to_json
from bcvlr_fast.runs.arguments import resolve
from bcvlr_fast.system.command import call


def main(argv: list[str]) -> None:
    """The command."""
    start = time.monotonic()
    request = resolve(argv)
    if request.print_config:
        print(to_json(request.settings, request.sources))
        return
    from bcvlr_fast.runs.announce import announce
    from bcvlr_fast.runs.start import start_run
    from bcvlr_fast.system.screen import Screen

    screen = Screen()
    announce(request.settings, request.folder, request.why, screen)
    start_run(
        request.settings,
        request.folder,
        screen,
        limit=request.limit,
        track=request.track,
        start=start,
        profiled=request.profile,
        dry_run=request.dry_run,
    )


class _CallableModule(types.ModuleType):
    """Keeps `bcvlr_fast.train(...)` callable after `import bcvlr_fast.train`, which puts this module in its place."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        from bcvlr_fast.runs.start import train_from_settings

        return train_from_settings(*arguments, **settings)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(call(lambda: main(sys.argv[1:])))
