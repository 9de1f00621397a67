"""Worker processes that end with their owner."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

_GRACE_S = 20.0


@contextlib.contextmanager
def worker_pool(workers: int, begin: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Within it, spawned processes that begin with `begin()`; those that are still at work at its end are killed.

    A worker that dies raises BrokenProcessPool where its result is waited for.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker, initargs=(begin,))
    try:
        yield pool
    finally:
        if pool._pending_work_items:
            for process in list(pool._processes.values()):
                process.kill()
        pool.shutdown(cancel_futures=True)


def begin_worker(begin: Callable[[], None] | None = None) -> None:
    """In a worker, first of all. Signals that reach a whole job reach the owner too, which ends its workers when it
    has saved what they work on."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    if begin:
        begin()


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Within it, processes start without importing the program again, which would mean torch in each of them."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _end_later(_: int, __: types.FrameType | None) -> None:
    timer = threading.Timer(_GRACE_S, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()


def _end_with_owner() -> None:
    """An owner that was killed could not end its workers."""
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)
