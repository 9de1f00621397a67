"""Benchmark of importing videos against a plain PyAV or numpy loop: pytest bench/bench_imports.py

The plain loop reads everything into memory and saves it; both sides write a file of 64 x 64 frames. The first
repetition checks that both files are equal; the next ones alternate and are timed. Rows go to results/imports.jsonl:
frames per second including the start of the workers, and peak memory of the process plus that of its workers, each
counted as the largest one.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest

from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos.importing import Options, import_videos
from rows import report

_FRAMES = 20_000
_FILES = 4
_TURNS = 3


def _scene() -> np.ndarray:
    """Frames [_FRAMES, 64, 64, 3] of a drifting gradient with a square, as compressible as a game."""
    x = np.arange(64)
    t = np.arange(_FRAMES)[:, None, None]
    ground = ((x[None, :, None] + x[None, None, :] + t // 4) % 256).astype(np.uint8)
    frames = np.stack([ground, 255 - ground, ground // 2], axis=3)
    for i in range(_FRAMES):
        left = i % 56
        frames[i, 28:36, left : left + 8] = 255
    return frames


def _write_mp4(folder: Path, frames: np.ndarray) -> None:
    """Writes 128 x 128 videos that show every step once."""
    for n, part in enumerate(np.array_split(frames, _FILES)):
        with av.open(str(folder / f"{n}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(15), options={"preset": "veryfast"})
            stream.height = stream.width = 128
            stream.pix_fmt = "yuv420p"
            for frame in part:
                large = frame.repeat(2, axis=0).repeat(2, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
            container.mux(stream.encode())


def _write_npz(folder: Path, frames: np.ndarray) -> None:
    for n, part in enumerate(np.array_split(frames, _FILES)):
        np.savez_compressed(folder / f"{n}.npz", obs=part)


def _write_hdf5(folder: Path, frames: np.ndarray) -> None:
    with h5py.File(folder / "all.hdf5", "w") as file:
        for n, part in enumerate(np.array_split(frames, _FILES)):
            file.create_dataset(f"episode_{n}/observations", data=part, compression="gzip", compression_opts=1)


def _loop_mp4(folder: Path) -> np.ndarray:
    frames = []
    for file in sorted(folder.glob("*.mp4")):
        with av.open(str(file)) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                image = frame.to_ndarray(format="rgb24").astype(np.float32)
                small = image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
                frames.append((small + 0.5).astype(np.uint8))
    return np.stack(frames)


def _loop_npz(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(file)["obs"] for file in sorted(folder.glob("*.npz"))])


def _loop_hdf5(folder: Path) -> np.ndarray:
    with h5py.File(folder / "all.hdf5") as file:
        return np.concatenate([file[name]["observations"][()] for name in sorted(file)])


def _theirs(loop: Callable[[Path], np.ndarray], source: Path, out: Path) -> None:
    out.mkdir()
    np.save(out / "frames.npy", np.ascontiguousarray(loop(source).transpose(0, 3, 1, 2)))


def _ours(_: Callable[[Path], np.ndarray], source: Path, out: Path) -> None:
    import_videos(source, out, Options(), Screen(quiet=True))


def _measured(side: Any, loop: Any, source: Path, out: Path) -> tuple[float, float]:
    """(seconds, peak GB of the process and its workers) of one import; runs in a separate process."""
    start = time.perf_counter()
    side(loop, source, out)
    spent = time.perf_counter() - start
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return spent, (_own_peak_kb() + usable_cores() * largest) * 1024 / 1e9


def _own_peak_kb() -> int:
    """Peak memory of this process; getrusage would include the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _turn(side: Any, loop: Any, source: Path, out: Path) -> tuple[float, float]:
    shutil.rmtree(out, ignore_errors=True)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_into, args=(results, side, loop, source, out))
    process.start()
    measured: tuple[float, float] = results.get()
    process.join()
    return measured


def _into(results: Any, *arguments: Any) -> None:
    results.put(_measured(*arguments))


@pytest.mark.parametrize(
    ("name", "write", "loop"),
    [
        ("mp4", _write_mp4, _loop_mp4),
        ("npz", _write_npz, _loop_npz),
        ("hdf5", _write_hdf5, _loop_hdf5),
    ],
)
def test_importing(name: str, write: Any, loop: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(source, _scene())
    turns = []
    for turn in range(1 + _TURNS):
        both = _turn(_theirs, loop, source, tmp_path / "b"), _turn(_ours, loop, source, tmp_path / "a")
        if turn == 0:
            ours, theirs = (np.load(tmp_path / side / "frames.npy", mmap_mode="r") for side in ("a", "b"))
            assert ours.shape == theirs.shape == (_FRAMES, 3, 64, 64)
            assert np.abs(ours.astype(np.int16) - theirs).max() == 0
        else:
            turns.append(both)
    rows = {side: [turn[i] for turn in turns] for i, side in enumerate(("peer", "ours"))}
    seconds = {side: statistics.median(s for s, _ in row) for side, row in rows.items()}
    report(
        "imports",
        {
            "source": name,
            "peer": "plain loop",
            "ours_frames_per_s": _FRAMES / seconds["ours"],
            "peer_frames_per_s": _FRAMES / seconds["peer"],
            "ratio": statistics.median(peer[0] / own[0] for peer, own in turns),
            "ours_gb": max(gb for _, gb in rows["ours"]),
            "peer_gb": max(gb for _, gb in rows["peer"]),
        },
    )
