"""How every command starts and ends: arguments by tyro, errors in one line, exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

import tyro

from bcvlr_fast.system.errors import Diverged, Interrupted, UserError

T = TypeVar("T")


def run_command(main: Callable[[T], None], arguments: type[T]) -> None:
    """Parses the command line into `arguments` and calls `main`.

    Exits 0 when done, 2 on bad input, 3 on divergence, 75 or 130 after a signal that found the state saved,
    128 and the signal's number after another; anything else is a bug and leaves its traceback.
    """
    exit_code = call(lambda: main(parse(arguments, sys.argv[1:])))
    sys.stdout.flush()
    sys.exit(exit_code)


def call(action: Callable[[], None]) -> int:
    """Runs `action` and returns the exit code; the reason of a failure is one line on stderr.

    A signal that asks for an end unwinds as Ctrl-C does, so that half-written files are removed.
    """
    for number in ending_signals():
        signal.signal(number, _unwind)
    try:
        action()
    except (UserError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def ending_signals() -> list[signal.Signals]:
    """The signals beside Ctrl-C's that ask a command to end; nohup has SIGHUP ignored."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGTERM, signal.SIGUSR1, *hangup]


def _unwind(number: int, _: FrameType | None) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}", 128 + number)


def parse(arguments: type[T], argv: Sequence[str], default: Any = None) -> T:
    """`arguments` from the command line. Raises UserError with what tyro found wrong, in one line."""
    shown = io.StringIO()
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(arguments, args=list(argv), **given)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(shown.getvalue())) from None


def _one_line(box: str) -> str:
    """tyro's boxed message without its frame, the usage hint and the line breaks."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"[╭╮╰╯│─┌┐└┘┃━]+", " ", line).strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("For full helptext", "Parsing error", "Usage"))]
    return re.sub(r"\s+", " ", " ".join(kept))
