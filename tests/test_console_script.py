"""The console script `bcvlr` runs the commands of the package."""

import sys

import pytest

from bcvlr_fast import __main__ as script


def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Runs `bcvlr` with `arguments`; returns (exit code, printed text)."""
    monkeypatch.setattr(sys, "argv", ["bcvlr", *arguments])
    code = 0
    try:
        script.main()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return code, "".join(capsys.readouterr())


def test_without_a_command_it_lists_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run_script(monkeypatch, capsys)
    assert code == 0
    assert all(f"  {command} " in output for command in script.COMMANDS)


def test_an_unknown_command_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run_script(monkeypatch, capsys, "trian")
    assert code == 2
    assert "error: command: expected one of train, evaluate" in output


@pytest.mark.parametrize("command", script.COMMANDS)
def test_every_command_has_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = run_script(monkeypatch, capsys, command, "--help")
    assert code == 0
    assert f"usage: bcvlr {command}" in output


def test_a_command_refuses_bad_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run_script(monkeypatch, capsys, "evaluate", "nowhere", "--seed", "-1")
    assert code == 2
    assert "seed: expected 0 <=" in output
