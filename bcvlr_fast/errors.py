"""What ends a command early, and the exit code that says so."""

from __future__ import annotations


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
