"""Frame stores and windows, for videos in memory and for files larger than memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcvlr_fast.config.window import Window
from bcvlr_fast.data import frames
from bcvlr_fast.data.frames import FrameStore, episode_positions
from bcvlr_fast.data.sampling import WindowSampler, window_centers, without_excess_still
from bcvlr_fast.kernels import random_shift

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=8), past=st.integers(0, 3), future=st.integers(0, 3))
def test_windows_never_cross_an_end(lengths: list[int], past: int, future: int) -> None:
    episode = np.repeat(np.arange(len(lengths)), lengths)
    begin = np.searchsorted(episode, episode)
    expected = [t for t in range(len(episode)) if t + future < len(episode) and episode[t] == episode[t + future]]
    store = FrameStore.from_episodes(np.zeros((len(episode), 1, 2, 2), np.uint8), np.array(lengths), CPU)
    sampler = WindowSampler(store, Window(past, future), torch.Generator())
    assert sampler.centers.tolist() == expected
    index = sampler.rows_of(sampler.centers, -past, future).T.tolist()
    assert index == [[max(t + i, begin[t]) for i in range(-past, future + 1)] for t in expected]


def test_sampler_draws_every_window_with_its_own_generator() -> None:
    frames = np.zeros((12, 1, 2, 2), np.uint8)
    store = FrameStore.from_episodes(frames, np.array([5, 7]), CPU)
    sampler = WindowSampler(store, Window(1, 1), torch.Generator().manual_seed(3))
    drawn = sampler.centers[sampler.draw_rows((2000,))]
    assert set(drawn.tolist()) == {0, 1, 2, 3, 5, 6, 7, 8, 9, 10}
    assert sampler.take(torch.tensor([2, 7, 5]))[1].tolist() == [[1, 6, 5], [2, 7, 5], [3, 8, 6]]
    again = WindowSampler(store, Window(1, 1), torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again.centers[again.draw_rows((2000,))])


def test_near_static_windows_are_dropped_down_to_a_fraction() -> None:
    rng = np.random.default_rng(0)
    frames = np.zeros((400, 3, 4, 4), np.uint8)
    moves = np.sort(rng.choice(390, 30, replace=False))
    for t in moves:  # a pixel changes after frame t
        frames[t + 1 :, :, t % 4, t // 4 % 4] ^= 200
    centers = np.arange(5, 395)
    moves = moves[moves >= 5]
    for fraction, still in ((0.5, len(moves)), (0.0, 0), (0.9, 9 * len(moves)), (1.0, 390 - len(moves))):
        remaining = without_excess_still(frames, centers, fraction, np.random.default_rng(1))
        assert np.isin(moves, remaining).all()
        assert len(remaining) == len(np.unique(remaining)) == len(moves) + still
        assert (np.diff(remaining) > 0).all()
        assert np.isin(remaining, centers).all()


def test_take_copies_only_the_batch_from_another_device() -> None:
    frames = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    store = FrameStore(frames, episode_positions(np.array([10])), torch.device("meta"), "mapped")
    store.device = torch.device("cpu", 0)  # differs from the tensor's device, so the frames are copied
    picked, index = store.take(torch.tensor([[3], [7]]))
    assert picked.flatten().tolist() == [3, 7]
    assert index.tolist() == [[0], [1]]


@pytest.mark.parametrize("frames", [torch.zeros(4, 3, 2, 2), torch.zeros(4, 2, 2, dtype=torch.uint8)])
def test_wrong_frames_are_named(frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="frames: expected uint8"):
        FrameStore(frames, np.arange(4), CPU)


def test_eight_million_frames_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are drawn from 98 GB in a sparse file while private memory stays small."""
    monkeypatch.setattr(frames, "available_memory", lambda: 16e9)
    count, episode = 8_000_000, 1_000
    file = tmp_path / "frames.npy"
    stored = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, 3, 64, 64))
    marked = np.arange(0, count, 100_003)
    stored[marked, 0, 0, 0] = marked % 251
    stored.flush()
    mapped = np.load(file, mmap_mode="r")
    before = private_bytes()
    store = FrameStore.from_episodes(mapped, np.full(count // episode, episode), CPU)
    assert store.placement == "mapped"
    assert len(window_centers(store.position, 1)) == count - count // episode
    sampler = WindowSampler(store, Window(1, 1), torch.Generator().manual_seed(0))
    for _ in range(20):
        taken, index = sampler.take(sampler.centers[sampler.draw_rows((256,))])
        assert random_shift(taken, index.T).shape == (256, 9, 64, 64)
    taken, index = store.take(torch.from_numpy(marked)[:, None])
    assert taken[index[:, 0], 0, 0, 0].tolist() == (marked % 251).tolist()
    assert private_bytes() - before < 1e9


def private_bytes() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
