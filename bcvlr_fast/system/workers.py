"""Worker processes that exit with the process that started them."""

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
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess

from bcvlr_fast.system.errors import UserError

_GRACE_S = 20.0


@contextlib.contextmanager
def worker_pool(
    workers: int, begin: Callable[[], None] | None = None, *, died: str = "a worker died"
) -> Iterator[ProcessPoolExecutor]:
    """Context with a pool of spawned processes that call `begin()` first; it kills busy workers when it exits.

    Workers do not import the main module, which may be a user's script without `if __name__ == "__main__"`. Raises
    UserError with the message `died` where the context is left by BrokenProcessPool, which calls raise if a worker
    died.
    """
    pool = ProcessPoolExecutor(workers, mp_context=_Spawning(), initializer=begin_worker, initargs=(begin,))
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(died) from None
    finally:
        if pool._pending_work_items:
            # Half of a killed worker's result may be in the pipe. Whoever reads it waits for the rest as long as
            # anyone could write it.
            pool._result_queue._writer.close()  # type: ignore[attr-defined]
            for process in list(pool._processes.values()):
                process.kill()
        pool.shutdown(cancel_futures=True)


def begin_worker(begin: Callable[[], None] | None = None) -> None:
    """Sets up signals in a worker, and calls `begin()`.

    A signal to a whole job also reaches the owner, which stops its workers after saving. So workers ignore signals;
    after SIGTERM they exit 20 seconds later. They also exit when the owner does.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_later)
    threading.Thread(target=_exit_with_owner, daemon=True).start()
    if begin:
        begin()


class _Worker(SpawnProcess):
    def start(self) -> None:
        with without_main():
            super().start()


class _Spawning(SpawnContext):
    Process = _Worker


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Context in which new processes do not import the main module, and with it torch, again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _exit_later(_: int, __: types.FrameType | None) -> None:
    timer = threading.Timer(_GRACE_S, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()


def _exit_with_owner() -> None:
    """Exits when the owner does; an owner that is killed cannot stop its workers."""
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)
