"""Signals that ask a run to stop."""

import os
import signal
import threading
from pathlib import Path

import pytest

from bcvlr_fast.runs.stopping import Stopping
from bcvlr_fast.system.errors import Interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_asks_for_a_stop_at_the_next_check(number: signal.Signals, code: int) -> None:
    stopping = Stopping(Path("run"))
    with stopping.signals():
        stopping.check()
        os.kill(os.getpid(), number)
        assert stopping.asked
        with pytest.raises(Interrupted, match=r"resume with: .* --resume run") as caught:
            stopping.check()
    assert caught.value.exit_code == code


def test_a_second_ctrl_c_ends_at_once() -> None:
    with Stopping(Path("run")).signals(), pytest.raises(KeyboardInterrupt):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopping(Path("run")).signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_of_the_main_thread_it_leaves_signals_alone() -> None:
    entered = []

    def work() -> None:
        with Stopping(Path("run")).signals():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered
