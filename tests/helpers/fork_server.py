"""A process that imports everything that the commands import and forks for every command that a test runs.

A fork takes milliseconds; the imports take seconds. The forked command is a normal process: it has an exit code, can
be signaled and killed, and leaves nothing behind in the test's process. The server itself runs no torch operation and
has a single thread, because threads do not survive a fork.

Usage: python tests/helpers/fork_server.py SOCKET SYS_PATH
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

MESSAGE_BYTES = 1 << 17
PRELOADED = (
    "torch",
    "torch._dynamo",  # the optimizers import it
    "torch.profiler",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_svg",
    "numba",
    "bcvlr_fast.train",
    "bcvlr_fast.record",
    "bcvlr_fast.evaluate",
    "bcvlr_fast.expert",
    "bcvlr_fast.report",
    "bcvlr_fast.videos.__main__",
)


def main() -> NoReturn:
    """Serves until the tests close their end of the socket."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    sys.path[:] = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pytest handles Ctrl-C
    preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the watchers
    while True:
        message, files, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 3)
        if not message:
            leave(0)
        if os.fork() == 0:
            requests.close()
            watch(json.loads(message), *files)
        for file in files:
            os.close(file)


def preload() -> None:
    """Imports everything that the commands import."""
    for name in PRELOADED:
        importlib.import_module(name)
    with contextlib.suppress(Exception):  # the command reports a missing package itself
        from bcvlr_fast.envs.pool import envpool

        envpool("procgen")
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"a fork would lose {threads - 1} threads"
    gc.collect()
    gc.freeze()  # garbage collection in a forked process would copy every page that it visits


def watch(order: dict[str, Any], out: int, err: int, report: int) -> NoReturn:
    """Forks again: the child becomes the command, and this process reports its process ID and exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.close(report)
        become(order, out, err)
    os.close(out)
    os.close(err)
    os.write(report, struct.pack("i", child))
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):  # the test has ended
        os.write(report, struct.pack("i", os.waitstatus_to_exitcode(status)))
    os._exit(0)


def become(order: dict[str, Any], out: int, err: int) -> NoReturn:
    """Turns this process into `python -m bcvlr_fast.MODULE ARGUMENTS`."""
    import torch

    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order["new_session"]:
        os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, out, err)):
        os.dup2(file, number)
        os.close(file)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    leave(run_module(f"bcvlr_fast.{order['module']}", order["arguments"]))


def run_module(name: str, arguments: list[str]) -> int:
    """Runs a module as `python -m` does, and returns the exit code."""
    if not hasattr(sys.modules[name], "__path__"):
        del sys.modules[name]  # as in a new process, which has not imported it
    sys.modules.pop(f"{name}.__main__", None)
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """Ends this process as the interpreter does, but skips module teardown, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
