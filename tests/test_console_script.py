"""The console script `bcvlr` runs the commands of the package."""

import sys

import pytest

from bcvlr_fast import __main__ as script


def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, what was printed)."""
    monkeypatch.setattr(sys, "argv", ["bcvlr", *arguments])
    code = 0
    try:
        script.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, "".join(capsys.readouterr())


def test_without_a_command_it_lists_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = called(monkeypatch, capsys)
    assert code == 0
    assert all(f"  {command} " in shown for command in script.COMMANDS)


def test_an_unknown_command_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = called(monkeypatch, capsys, "trian")
    assert code == 2
    assert "error: command: expected one of train, evaluate" in shown


@pytest.mark.parametrize("command", script.COMMANDS)
def test_every_command_has_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = called(monkeypatch, capsys, command, "--help")
    assert code == 0
    assert f"usage: bcvlr {command}" in shown


def test_a_command_refuses_bad_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = called(monkeypatch, capsys, "evaluate", "nowhere", "--seed", "-1")
    assert code == 2
    assert "seed: expected 0 <=" in shown
