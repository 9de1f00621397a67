"""Start and end of every command: arguments parsed by tyro, errors in one line, exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import tyro
import tyro._errors

from bcvlr_fast.system.errors import Diverged, Interrupted, UserError, did_you_mean

T = TypeVar("T")


def run_command(main: Callable[[T], None], arguments: type[T]) -> None:
    """Parses the command line into `arguments` and calls `main`.

    The exit code is 0 when done, 2 for bad input, 3 for divergence, 75 or 130 after a signal that found the state
    saved, and 128 plus its number after any other signal. Every other failure is a bug and leaves its traceback.
    """
    exit_code = call(lambda: main(parse(arguments, sys.argv[1:])))
    sys.stdout.flush()
    sys.exit(exit_code)


def call(action: Callable[[], None]) -> int:
    """Runs `action` and returns the exit code; a failure prints its reason as one line on stderr.

    A signal that ends the command unwinds the stack as Ctrl-C does, so that half-written files are removed.
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
    """The signals that end a command, Ctrl-C's excluded; SIGHUP is not one of them under nohup, which ignores it."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGTERM, signal.SIGUSR1, *hangup]


def _unwind(number: int, _: FrameType | None) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}", 128 + number)


def parse(arguments: type[T], argv: Sequence[str], default: T | None = None, compact_help: bool = False) -> T:
    """`arguments` from the command line, over those of `default`. Raises UserError for the first that is wrong.

    With `compact_help`, `--help` shows a line for each option, and `--help-verbose` what it sets.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    with _raising(arguments):
        return tyro.cli(arguments, prog=_program(), args=list(argv), compact_help=compact_help, **given)


def parse_known(arguments: type[T], argv: Sequence[str]) -> T:
    """`arguments` from a command line that holds others too. Raises UserError as `parse`."""
    with _raising(arguments):
        found, _ = tyro.cli(arguments, args=list(argv), return_unknown_args=True, add_help=False)
    return found


def _program() -> str:
    """The command as `--help` names it: `bcvlr train` for bcvlr_fast/train.py."""
    file = Path(sys.argv[0])
    return f"bcvlr {file.parent.name if file.stem == '__main__' else file.stem}"


def _raising(arguments: Any) -> contextlib.AbstractContextManager[Any]:
    """Within it, tyro raises UserError for what it finds wrong.

    It uses a hook that is not part of tyro's public interface. A tyro without it prints its own message, over several
    lines, and exits with 2 as well.
    """
    known = (*_flags(arguments), *_subcommands(arguments))

    def hook(event: Any) -> None:
        raise UserError(_message(event, known))

    try:
        return tyro._errors.on_parse_error(hook)
    except AttributeError:
        return contextlib.nullcontext()


def _message(event: Any, known: tuple[str, ...]) -> str:
    match event:
        case tyro._errors.UnrecognizedArgs(tokens=[word, *_]):
            word = word.partition("=")[0]
            found = f"unknown option {word}" if word.startswith("-") else f"unexpected argument '{word}'"
            return f"{found}{did_you_mean(word, known)}"
        case tyro._errors.InvalidChoice(value=value, choices=choices):
            found = f"'{value}'{did_you_mean(value, choices)}"
            return f"{event.argument.display_name()}: expected one of {', '.join(choices)}, got {found}"
        case tyro._errors.InstantiationFailure(message=message):
            found = " ".join(message.split())
            argument = event.argument
            return f"{argument.display_name()}: expected {argument.lowered.metavar} ({found})" if argument else found
        case tyro._errors.BadValue(offending_value=None):
            return f"{event.argument.display_name()}: expected {event.argument.lowered.metavar}, got nothing"
        case tyro._errors.MissingArgs(missing_arguments=missing):
            return f"{missing[0].arg.display_name()}: expected a value, got nothing"
        case tyro._errors.MissingSubcommand(subcommand_spec=spec, found_token=word):
            return f"expected one of {', '.join(spec.parser_from_name)}, got {word or 'nothing'}"
    return f"the command line is not understood ({type(event).__name__})"


def _flags(arguments: Any, prefix: str = "--") -> Iterator[str]:
    """The options of a dataclass and its sections, or of every subcommand of a union."""
    if hasattr(arguments, "__metadata__"):
        yield from _flags(arguments.__origin__, prefix)
    elif not dataclasses.is_dataclass(arguments):
        for part in typing.get_args(arguments):
            yield from _flags(part, prefix)
    else:
        for name, hint in typing.get_type_hints(arguments, include_extras=True).items():
            flag, markers = prefix + name.replace("_", "-"), getattr(hint, "__metadata__", ())
            section = hint.__origin__ if markers else hint
            if dataclasses.is_dataclass(section):
                yield from _flags(section, prefix if tyro.conf.OmitArgPrefixes in markers else f"{flag}.")
            elif tyro.conf.Positional not in markers:
                yield flag


def _subcommands(arguments: Any) -> Iterator[str]:
    """The names in a union of subcommands."""
    for part in typing.get_args(arguments):
        yield from (marker.name for marker in getattr(part, "__metadata__", ()) if hasattr(marker, "name"))
