"""What ends a command early, and the exit code that says so."""

from __future__ import annotations

import difflib


class UserError(Exception):
    """Bad input: one line that names the field or file, what was expected and what was found."""

    exit_code = 2


class Diverged(Exception):
    """Training left the finite numbers."""

    exit_code = 3


class Interrupted(BaseException):
    """A signal asked for an end and the state is saved; `exit_code` says which signal.

    As KeyboardInterrupt, it is no Exception: no library that it passes through may take it for an error of its own.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(word: object, words: tuple[str, ...]) -> str:
    """' (did you mean ...?)' for a near miss, else nothing."""
    close = difflib.get_close_matches(str(word).lower(), words, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
