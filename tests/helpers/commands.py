"""The package's commands: in this process, in a forked one, and in a new one as a shell starts it.

invoke     in this process: for what is refused before anything begins
run        in a process forked from one that has torch loaded: for whole runs
start      the same, without waiting: for what is signaled or killed
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
    """Runs a command in this process, and returns its exit code and what it printed.

    Working folder, environment and caches are the test's own.
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
    """The one line of a command that refused its input, which it must have done with exit code 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def run(module: str, *arguments: str) -> Done:
    """Runs a command in a process of its own to its end."""
    return start(module, *arguments).finish(limit_s=300)


def start(module: str, *arguments: str, new_session: bool = False) -> Command:
    """Starts a command in a process of its own, in this one's working folder and environment.

    In a new session, the command and the processes that it starts can be signaled together.
    """
    return Command(module, arguments, new_session)


def run_fresh(module: str, *arguments: str) -> Done:
    """Runs `python -m bcvlr_fast.MODULE` to its end, imports included."""
    command = [sys.executable, "-m", f"bcvlr_fast.{module}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def wait_until(condition: Callable[[], bool], limit_s: float, every_s: float = 0.01) -> None:
    """Waits until `condition` holds, which is asked `every_s`; fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s"
        time.sleep(every_s)


class Command:
    """A command in a process of its own; `pid` is its number."""

    def __init__(self, module: str, arguments: tuple[str, ...], new_session: bool) -> None:
        self.arguments = [module, *arguments]
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
        """What it has printed so far."""
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
        """Waits until `text` has been printed, or the command has ended."""
        wait_until(lambda: text in self.stdout or not self.running, limit_s)

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, limit_s: float) -> int:
        """The exit code; that of a process that a signal ended is negative. Kills what takes longer than `limit_s`."""
        if self.running and not select.select([self._reports], [], [], limit_s)[0]:
            self.send_signal(signal.SIGKILL)
            raise AssertionError(f"not done within {limit_s:g} s: {self.stdout}{self.stderr}")
        assert not self.running
        assert self._code is not None
        return self._code

    def finish(self, limit_s: float = 120) -> Done:
        """Waits for the end, and returns all that was printed."""
        code = self.wait(limit_s)
        return Done(self.arguments, code, self.stdout, self.stderr)

    def _read_report(self) -> int:
        report = os.read(self._reports, 4)
        assert report, "the fork server has ended; its reason is on stderr"
        (number,) = struct.unpack("i", report)
        return int(number)

    def __del__(self) -> None:
        os.close(self._reports)


@functools.cache
def _server() -> socket.socket:
    """The socket of this test worker's fork server, which ends with the worker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, fork_server.__file__, str(theirs.fileno()), json.dumps(sys.path)]
    server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
    theirs.close()

    def end() -> None:
        ours.close()
        server.wait(10)

    atexit.register(end)
    return ours


def _temporary() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _text(file: IO[str]) -> str:
    """The whole of a file that another process may be writing."""
    return os.pread(file.fileno(), 1 << 24, 0).decode()


@contextlib.contextmanager
def _redirected(stream: str, file: IO[str]) -> Iterator[None]:
    """Within it, what is written to stdout or stderr goes to `file`, be it by Python or by a library in C."""
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
    """Within it, warnings are printed as Python does by itself; pytest would collect them."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")  # the module was imported before
        warnings.showwarning = show  # type: ignore[assignment]
        yield
