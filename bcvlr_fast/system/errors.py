"""Exceptions that end a command early, each with its exit code."""

from __future__ import annotations

import difflib


class UserError(Exception):
    """Bad input. The message is one line: the field or file, what was expected, what was found."""

    exit_code = 2


class Diverged(Exception):
    """Training reached numbers that are not finite."""

    exit_code = 3


class Interrupted(BaseException):
    """A signal ended the command; `exit_code` says which one.

    Like KeyboardInterrupt it is not an Exception, so that no library on the way handles it as an error of its own.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(word: object, words: tuple[str, ...]) -> str:
    """' (did you mean ...?)' if `word` is close to one of `words`, else an empty string."""
    close = difflib.get_close_matches(str(word).lower(), words, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
