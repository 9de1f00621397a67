"""Argument errors and exit codes of commands."""

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from bcvlr_fast.system.command import call, parse, parse_known
from bcvlr_fast.system.errors import Diverged, Interrupted, UserError


@dataclass(frozen=True)
class Limits:
    """Limits."""

    max_frames: int = 5


@dataclass(frozen=True)
class First:
    """First command."""

    source: Annotated[Path, tyro.conf.Positional]
    kind: Literal["still", "moving"] = "still"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Second:
    """Second command."""

    out: Path
    lossless: bool = False


BOTH: Any = Annotated[First, tyro.conf.subcommand("first")] | Annotated[Second, tyro.conf.subcommand("second")]


def test_arguments_are_parsed_over_a_default() -> None:
    default = First(Path("x"), limits=Limits(7))
    assert parse(First, ["--kind", "moving"], default) == First(Path("x"), "moving", Limits(7))
    assert parse(BOTH, ["second", "--out", "y"]) == Second(Path("y"))


def test_parse_known_ignores_other_options() -> None:
    assert parse_known(Limits, ["--out", "y", "--max-frames=3", "--help", "z"]) == Limits(3)


BAD = {
    "missing positional": (First, [], "source: expected a value, got nothing"),
    "missing option": (Second, [], "--out: expected a value, got nothing"),
    "choice": (First, ["x", "--kind", "stil"], "expected one of still, moving, got 'stil' (did you mean 'still'?)"),
    "unknown": (First, ["x", "--limits.max-frame", "3"], "(did you mean '--limits.max-frames'?)"),
    "unknown in a subcommand": (BOTH, ["second", "--out", "y", "--losless"], "(did you mean '--lossless'?)"),
    "number": (First, ["x", "--limits.max-frames", "x"], "--limits.max-frames: expected INT (invalid literal"),
    "no subcommand": (BOTH, [], "expected one of first, second, got nothing"),
    "unknown subcommand": (BOTH, ["secnd"], "unexpected argument 'secnd' (did you mean 'second'?)"),
    "value of a flag": (Second, ["--out", "y", "--lossless", "yes"], "unexpected argument 'yes'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_one_line_errors(case: str) -> None:
    arguments, argv, message = BAD[case]
    with pytest.raises(UserError) as caught:
        parse(arguments, argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (None, 0, ""),
        (UserError("seed: no"), 2, "error: seed: no\n"),
        (Diverged("features: loss is nan"), 3, "error: features: loss is nan\n"),
        (Interrupted("stopped", 75), 75, "stopped\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(failure: BaseException | None, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        if failure is not None:
            raise failure

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    try:
        assert call(action) == code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err == line
