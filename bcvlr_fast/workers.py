"""Worker processes that end with their owner."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor


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


def begin_worker(begin: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the owner too, which ends the workers
    threading.Thread(target=_end_with_owner, daemon=True).start()
    if begin:
        begin()


def _end_with_owner() -> None:
    """An owner that was killed could not end its workers."""
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)
