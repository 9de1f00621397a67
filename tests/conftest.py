"""Fixtures that several test files share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel on small tensors
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads leave the core to another test

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

if torch.cuda.is_available():
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # for the tests of deterministic algorithms
else:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are first imported

from bcvlr_fast.experts import simulator
from bcvlr_fast.videos import DatasetWriter, Manifest
from bcvlr_fast.videos.labels import NO_ACTION, EvaluationLabels
from helpers.backends import BACKENDS, Backend, running
from helpers.commands import run_fresh
from helpers.shared import filled_once, session_folder
from helpers.tiny import TINY

LENGTHS = [40, 25, 33, 30]
if simulator_folder := simulator.folder():  # in the user's cache, which tests do not use otherwise
    os.environ["BCVLR_FAST_SIMULATOR"] = str(simulator_folder)


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the recordings of a test session apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BCVLR_FAST_CACHE", str(session_folder(tmp_path_factory) / "cache"))
        yield


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each implementation of the operations in turn. Newly allocated memory is filled with NaN."""
    torch.use_deterministic_algorithms(True)  # makes torch fill the memory that it allocates
    try:
        with running(request.param) as selected:
            yield selected
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores torch's number of threads after the test."""
    initial = torch.get_num_threads()
    yield
    torch.set_num_threads(initial)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small dataset of random pixels with random labels."""
    rng = np.random.default_rng(0)
    total = sum(LENGTHS)
    folder = tmp_path / "videos"
    writer = DatasetWriter(folder, (3, 64, 64))
    action = np.full(total, NO_ACTION, np.uint8)
    row = 0
    for length in LENGTHS:
        writer.append(rng.integers(0, 256, (length, 3, 64, 64), dtype=np.uint8))
        action[row : row + length - 1] = rng.integers(0, 15, length - 1)
        row += length
    labels = EvaluationLabels(action, np.arange(len(LENGTHS), dtype=np.float32), np.arange(5, 9, dtype=np.int32))
    labels.save(writer.work)
    writer.commit(Manifest("procgen:bossfight", "test", LENGTHS, [3, 64, 64]))
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """(run folder, videos, screen output) of a complete tiny run, started as a user starts it.

    Tests that modify the folder copy it first.
    """

    def fill(folder: Path) -> None:
        rng = np.random.default_rng(0)
        videos = folder / "clips"
        videos.mkdir()
        for i in range(4):
            np.save(videos / f"{i}.npy", rng.integers(0, 256, (30, 64, 64, 3), dtype=np.uint8))
        done = run_fresh("train", *TINY, "--videos", str(videos), "--out", str(folder / "run"), "--profile", "1:4")
        assert done.returncode == 0, done.stderr
        (folder / "screen.txt").write_text(done.stdout)

    base = filled_once(tmp_path_factory, "finished", fill)
    return base / "run", base / "clips", (base / "screen.txt").read_text()
