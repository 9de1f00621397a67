"""Terminal output of a command: messages, tables, and progress bars or occasional progress lines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_LINE_EVERY_S = 30.0


class Bar(Protocol):
    """Progress of one task."""

    def advance(self, steps: int = 1) -> None: ...

    def show(self, text: str) -> None:
        """Shows `text` beside the bar."""


class Screen:
    """Output of one command; `quiet` suppresses it."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def table(self, table: Table) -> None:
        self.console.print(table)

    @contextlib.contextmanager
    def bar(self, title: str, total: int, unit: str = "updates", done: int = 0) -> Iterator[Bar]:
        """Context with a progress bar on a terminal; elsewhere it prints a line every 30 s and at the end."""
        if not self.console.is_terminal:
            line = _LineBar(self, title, total, unit, done)
            yield line
            line.finish()
            return
        progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
            console=self.console,
        )
        with progress:
            yield _RichBar(progress, progress.add_task(title, total=total, completed=done, shown=""))


class _RichBar:
    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)  # type: ignore[arg-type]

    def show(self, text: str) -> None:
        self._progress.update(self._task, shown=text)  # type: ignore[arg-type]


class _LineBar:
    def __init__(self, screen: Screen, title: str, total: int, unit: str, done: int) -> None:
        self._screen, self._title, self._total, self._unit = screen, title, total, unit
        self._done, self._shown = done, ""
        self._start = self._last = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._print()

    def show(self, text: str) -> None:
        self._shown = text

    def finish(self) -> None:
        self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        spent_s = self._last - self._start
        self._screen.say(f"{self._title}: {self._done}/{self._total} {self._unit} in {spent_s:.0f} s  {self._shown}")
