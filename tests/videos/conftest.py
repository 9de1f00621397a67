"""Fixtures of the tests of videos."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from bcvlr_fast.system.workers import worker_pool
from bcvlr_fast.videos import importing

Begin = Callable[[], None] | None


@pytest.fixture(scope="session")
def _kept() -> Iterator[Callable[[Begin], ProcessPoolExecutor]]:
    """One worker for all imports of this test worker: starting one takes longer than most imports here."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda begin: stack.enter_context(worker_pool(1, begin)))


@pytest.fixture
def kept_worker(_kept: Callable[[Begin], ProcessPoolExecutor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports read in a worker that outlives them; see test_import_workers for workers of their own."""
    monkeypatch.setattr(importing, "worker_pool", lambda _, begin: contextlib.nullcontext(_kept(begin)))
