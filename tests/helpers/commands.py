"""Runs the package's commands: in this process, in a forked one, or in a new one as a shell does.

invoke     in this process: for commands that refuse their input
run        in a process forked from one that has torch loaded: for complete runs
start      like run, without waiting: for runs that are signaled or killed
run_fresh  in a new process, as a user does
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import IO

from helpers import fork_server

Done = subprocess.CompletedProcess[str]


def invoke(module: str, *arguments: str) -> Done:
    """Runs a command in this process; returns its exit code and its output.

    The command shares the test's working folder, environment and caches.
    """
    command = [f"bcvlr_fast.{module}", *arguments]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    argv, code = sys.argv, 0
    with _temporary() as out, _temporary() as err:
        sys.argv = command
        try:
            with _redirected("stdout", out), _redirected("stderr", err), _warnings_printed():
                runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            sys.argv = argv
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Done(command, code, _text(out), _text(err))


def refusal(done: Done) -> str:
    """The error line of a command that refused its input; asserts exit code 2 and a single line on stderr."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def run(module: str, *arguments: str) -> Done:
    """Runs a command to its end in a separate process."""
    return start(module, *arguments).finish(limit_s=300)


def start(module: str, *arguments: str, new_session: bool = False) -> Command:
    """Starts a command in a separate process with this one's working folder and environment.

    With `new_session`, a signal reaches the command and all processes that it has started, as from a job scheduler.
    """
    return Command(module, arguments, new_session)


def run_fresh(module: str, *arguments: str) -> Done:
    """Runs `python -m bcvlr_fast.MODULE` to its end in a new Python process."""
    command = [sys.executable, "-m", f"bcvlr_fast.{module}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def wait_until(condition: Callable[[], bool], limit_s: float, every_s: float = 0.01) -> None:
    """Polls `condition` every `every_s` seconds until it holds; fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s"
        time.sleep(every_s)


class Command:
    """A command in a separate process, whose process ID is `pid`."""

    def __init__(self, module: str, arguments: tuple[str, ...], new_session: bool) -> None:
        self.arguments = [module, *arguments]
        self._signal = os.killpg if new_session else os.kill
        self._out, self._err = _temporary(), _temporary()
        self._reports, report = os.pipe()
        self._code: int | None = None
        order = {
            "module": module,
            "arguments": arguments,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "new_session": new_session,
        }
        message = json.dumps(order).encode()
        assert len(message) < fork_server.MESSAGE_BYTES
        socket.send_fds(_server(), [message], [self._out.fileno(), self._err.fileno(), report])
        os.close(report)
        self.pid = self._read_report()

    @property
    def stdout(self) -> str:
        """The output so far."""
        return _text(self._out)

    @property
    def stderr(self) -> str:
        return _text(self._err)

    @property
    def running(self) -> bool:
        if self._code is None and select.select([self._reports], [], [], 0)[0]:
            self._code = self._read_report()
        return self._code is None

    def wait_for(self, text: str, limit_s: float = 120) -> None:
        """Waits until the command has printed `text` or has ended."""
        wait_until(lambda: text in self.stdout or not self.running, limit_s)

    def send_signal(self, number: signal.Signals) -> None:
        self._signal(self.pid, number)

    def wait(self, limit_s: float) -> int:
        """Waits for the exit code, negative after a fatal signal. Kills the process after `limit_s` and fails."""
        if self.running and not select.select([self._reports], [], [], limit_s)[0]:
            self.send_signal(signal.SIGKILL)
            raise AssertionError(f"not done within {limit_s:g} s: {self.stdout}{self.stderr}")
        assert not self.running
        assert self._code is not None
        return self._code

    def finish(self, limit_s: float = 120) -> Done:
        """Waits for the end; returns the exit code and the output."""
        code = self.wait(limit_s)
        return Done(self.arguments, code, self.stdout, self.stderr)

    def _read_report(self) -> int:
        report = os.read(self._reports, 4)
        assert report, "the fork server has ended; stderr has the reason"
        (number,) = struct.unpack("i", report)
        return int(number)

    def __del__(self) -> None:
        os.close(self._reports)


@functools.cache
def _server() -> socket.socket:
    """The socket of the fork server of this test worker. The server ends with the worker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, fork_server.__file__, str(theirs.fileno()), json.dumps(sys.path)]
    alone = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # the server may have no second thread; commands set their own number
    server = subprocess.Popen(command, env=alone, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
    theirs.close()

    def end() -> None:
        ours.close()
        server.wait(10)

    atexit.register(end)
    return ours


def _temporary() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _text(file: IO[str]) -> str:
    """The text of a file that another process may still be writing."""
    return os.pread(file.fileno(), 1 << 24, 0).decode()


@contextlib.contextmanager
def _redirected(stream: str, file: IO[str]) -> Iterator[None]:
    """Redirects stdout or stderr to `file` within the context, for Python and for C libraries."""
    number = {"stdout": 1, "stderr": 2}[stream]
    python, system = getattr(sys, stream), os.dup(number)
    python.flush()
    os.dup2(file.fileno(), number)
    setattr(sys, stream, file)
    try:
        yield
    finally:
        file.flush()
        setattr(sys, stream, python)
        os.dup2(system, number)
        os.close(system)


@contextlib.contextmanager
def _warnings_printed() -> Iterator[None]:
    """Prints warnings within the context as plain Python does; pytest would collect them."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")  # the module is already imported
        warnings.showwarning = show  # type: ignore[assignment]
        yield
