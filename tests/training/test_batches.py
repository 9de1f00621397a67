"""The batches of updates, drawn from a store on the device or streamed from the host."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bcvlr_fast.config.window import Window
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.training.batches import Batches

CPU = torch.device("cpu")
LENGTHS = np.array([30, 50, 40])


def sampler_of(placement: str, folder: Path, seed: int = 5) -> WindowSampler:
    """Windows (t - 1 .. t + 2) of frames whose pixels are their frame number."""
    total = int(LENGTHS.sum())
    frames = np.zeros((total, 1, 2, 2), np.uint8)
    frames[:] = np.arange(total)[:, None, None, None]
    file = folder / "frames.npy"
    np.save(file, frames)
    store = FrameStore.from_episodes(np.load(file, mmap_mode="r"), LENGTHS, CPU)
    store.placement = placement
    return WindowSampler(store, Window(1, 2), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("placement", ["device", "mapped"])
@pytest.mark.parametrize("last", [None, 0, 1])
def test_a_batch_holds_windows(placement: str, last: int | None, tmp_path: Path) -> None:
    sampler = sampler_of(placement, tmp_path)
    batches = Batches(sampler, 64, 4, last=last)
    drawn = set()
    for step in range(12):
        batches.fetch((0, step), (0, step + 1))
        batches.draw(4)
        assert batches.rows.shape == (4, 64)
        assert batches.index.shape == (4, 4 if last is None else last + 1, 64)
        pixels = batches.frames[batches.index][:, :, :, 0, 0, 0].long()  # [count, F, B]: the frame numbers
        centers = sampler.centers[batches.rows]
        steps = torch.tensor([-1, 0, 1, 2] if last is None else range(last + 1))
        first = centers - torch.from_numpy(sampler.store.age)[centers]
        assert torch.equal(pixels, torch.maximum(centers[:, None] + steps[:, None], first[:, None]))
        for step in (0, int(steps[-1])):
            assert torch.equal(batches.frames[batches.observation(2, step)][:, 0, 0, 0, 0].long(), centers[2] + step)
        drawn |= set(centers.flatten().tolist())
    assert drawn == set(sampler.centers.tolist())


def test_a_streamed_batch_depends_only_on_seed_and_step(tmp_path: Path) -> None:
    """Earlier fetches do not matter, so a resumed run continues with the same batches."""
    straight = Batches(sampler_of("mapped", tmp_path), 8, 2)
    drawn = []
    for step in range(4):
        straight.fetch((7, step), (7, step + 1))
        straight.draw(2)
        drawn.append(straight.rows.clone())
    assert not torch.equal(drawn[0], drawn[1])
    again = Batches(sampler_of("mapped", tmp_path), 8, 2)
    for step in (2, 3, 0):  # 3 was gathered ahead, 0 was not
        again.fetch((7, step), (7, step + 1))
        again.draw(2)
        assert torch.equal(again.rows, drawn[step])
    other = Batches(sampler_of("mapped", tmp_path, seed=6), 8, 2)
    other.fetch((7, 0), (7, 1))
    other.draw(2)
    assert not torch.equal(other.rows, drawn[0])


def test_frames_in_use_are_not_overwritten(tmp_path: Path) -> None:
    batches = Batches(sampler_of("mapped", tmp_path), 32, 1)
    batches.fetch((0, 0), (0, 1))
    batches.draw(1)
    in_use = batches.frames.clone()
    assert batches._stream is not None
    assert batches._stream._coming is not None
    batches._stream._coming[1].result()  # the next step's frames are gathered
    assert torch.equal(batches.frames, in_use)


def test_the_number_of_windows_may_change(tmp_path: Path) -> None:
    """It changes in place, as that of a replay does, so that a captured draw follows it."""
    sampler = sampler_of("device", tmp_path)
    sampler.count.fill_(3)
    assert set(sampler.draw_rows((500,)).tolist()) == {0, 1, 2}


def test_an_error_in_the_thread_is_raised(tmp_path: Path) -> None:
    batches = Batches(sampler_of("mapped", tmp_path), 8, 1)
    assert batches._stream is not None
    batches._stream._store = None  # type: ignore[assignment]
    with pytest.raises((TypeError, ValueError, IndexError)):
        batches.fetch((0, 0), (0, 1))
