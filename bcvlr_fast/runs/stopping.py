"""Signals that ask a run to stop at its next safe point."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from bcvlr_fast.system.command import ending_signals
from bcvlr_fast.system.errors import Interrupted


class Stopping:
    """Remembers the signal that asked for a stop."""

    def __init__(self, resume_folder: Path) -> None:
        """`resume_folder` is the run folder that the message names."""
        self._resume_folder = resume_folder
        self._number: int | None = None
        self._at_once = False

    @property
    def asked(self) -> bool:
        """Whether a signal asked for a stop."""
        return self._number is not None

    def check(self) -> None:
        """Raises Interrupted if a signal asked for a stop. Everything must be saved before the call."""
        if self._number is not None:
            code = 130 if self._number == signal.SIGINT else 75
            message = f"stopped; resume with: python -m bcvlr_fast.train --resume {self._resume_folder}"
            raise Interrupted(message, code)

    def at_once(self) -> None:
        """Makes signals stop the run at once from here on, because nothing remains to be saved."""
        self._at_once = True
        self.check()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Within it, the first signal asks for a stop; a second SIGINT ends the process at once.

        Outside of the main thread, which alone may handle signals, it does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _: FrameType | None) -> None:
            if self._number is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._number = number
            if self._at_once:
                self.check()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, *ending_signals())}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
