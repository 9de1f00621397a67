"""The processes that read videos end with their owner and have a memory limit."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.videos.importing import Options, import_videos
from bcvlr_fast.videos.readers.chunks import Limits
from helpers.commands import wait_until
from helpers.sources import EPISODES, LENGTHS, QUIET, imported, write_npy


def test_several_workers_give_the_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for i, frames in enumerate(EPISODES * 2):
        np.save(tmp_path / "source" / f"{i}.npy", frames)
    videos, _ = imported(tmp_path / "source", tmp_path / "data", workers=2)
    assert videos.lengths.tolist() == LENGTHS * 2
    frames = np.asarray(videos.frames).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(frames, np.concatenate(EPISODES * 2))


def test_workers_end_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    """The next import of the same name removes the leftovers."""
    code = (
        "import time; from bcvlr_fast.system.workers import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(2) as pool:\n"
        "        pool.submit(time.sleep, 0).result()\n"
        "        print(*pool._processes, flush=True)\n"
        "        time.sleep(100)\n"
    )
    (tmp_path / "owner.py").write_text(code)
    owner = subprocess.Popen([sys.executable, str(tmp_path / "owner.py")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    workers = owner.stdout.readline().split()
    assert all(Path("/proc", worker).exists() for worker in workers)
    owner.kill()
    owner.wait()
    wait_until(lambda: not any(Path("/proc", worker).exists() for worker in workers), 20)
    leftover = tmp_path / f".data.{owner.pid}"
    leftover.mkdir()
    write_npy(tmp_path / "source")
    imported(tmp_path / "source", tmp_path / "data")
    assert not leftover.exists()


def test_a_decoder_that_needs_too_much_memory_is_a_one_line_error(tmp_path: Path) -> None:
    """The limits on files allow the frame, but the memory limit of the worker does not."""
    shape = (1, 60_000, 60_000, 3)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + math.prod(shape))  # a hole: it takes no disk space
    options = Options(limits=Limits(side_px=60_000, file_gib=100))
    with pytest.raises(UserError, match=r"a\.npy: needs more than 6 GiB"):
        import_videos(tmp_path / "a.npy", tmp_path / "data", options, QUIET)
