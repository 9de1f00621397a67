"""Fixtures for the tests of videos."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from bcvlr_fast.system.workers import worker_pool
from bcvlr_fast.videos import importing

Begin = Callable[[], None] | None


@pytest.fixture(scope="session")
def _shared() -> Iterator[Callable[[Begin], ProcessPoolExecutor]]:
    """One import worker for the whole test session, because starting one takes longer than most imports here."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda begin: stack.enter_context(worker_pool(1, begin)))


@pytest.fixture
def shared_worker(_shared: Callable[[Begin], ProcessPoolExecutor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes imports share one worker. The tests in test_import_workers start their own."""
    monkeypatch.setattr(importing, "worker_pool", lambda _, begin: contextlib.nullcontext(_shared(begin)))
