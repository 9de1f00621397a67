"""Rates, sizes, cuts and limits of imports, and inspection and export of the result."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.videos import importing, open_videos
from bcvlr_fast.videos.importing import Options, find_parts
from bcvlr_fast.videos.inspection import measure
from bcvlr_fast.videos.marks import CutDetector, done_means, jumps
from bcvlr_fast.videos.mp4 import write_mp4
from bcvlr_fast.videos.readers import video_files
from bcvlr_fast.videos.readers.chunks import Chunk, Limits, Part
from bcvlr_fast.videos.sampling import TimeSampler
from helpers.commands import invoke
from helpers.sources import (
    EPISODES,
    FRAMES,
    LENGTHS,
    SIDE,
    firsts,
    imported,
    lasts,
    scene,
    write_film,
    write_films,
    write_npy,
)

pytestmark = pytest.mark.usefixtures("shared_worker")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_films_are_resampled_to_the_size_and_rate_of_the_environment(tmp_path: Path, suffix: str) -> None:
    steps = scene(3, 25)
    shown = steps.repeat(4, axis=0).repeat(2, axis=1).repeat(2, axis=2)  # 60 frames a second, 128 x 128
    codec = {"webm": "libvpx-vp9"}.get(suffix, "libx264")
    write_film(tmp_path / f"film.{suffix}", shown, Fraction(60), codec)
    videos, manifest = imported(tmp_path / f"film.{suffix}", tmp_path / "data", fps=15.0)
    assert (manifest.source_fps, manifest.fps, manifest.source_sizes) == (60.0, 15.0, [[128, 128]])
    assert videos.lengths.tolist() == [25]
    for t, frame in enumerate(np.asarray(videos.frames).transpose(0, 2, 3, 1).astype(int)):
        errors = np.abs(steps.astype(int) - frame).mean(axis=(1, 2, 3))
        assert errors.argmin() == t  # every step appears exactly once
        assert errors[t] < 12  # of 255, from chroma subsampling and the codec on noise


def test_a_film_slower_than_the_environment_keeps_every_frame(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", scene(1, 30), Fraction(10), "libx264")
    videos, manifest = imported(tmp_path / "film.mp4", tmp_path / "data", fps=15.0)
    assert (len(videos.frames), manifest.fps) == (30, 10.0)


def test_a_changing_rate_is_sampled_by_time() -> None:
    """One second at 10 frames per second gives 10 frames, and a second one at 60 gives 15."""
    times = np.concatenate([np.arange(10) / 10, 1 + np.arange(60) / 60])
    sampler = TimeSampler(15.0)
    chosen = [sampler.choose(Chunk(FRAMES[: len(t)], time_s=t), marked=True)[0] for t in np.split(times, [33])]
    rows = np.concatenate([chosen[0], 33 + chosen[1]])
    np.testing.assert_array_equal(rows, [*range(10), *range(10, 70, 4)])


def test_a_film_is_rotated_by_its_metadata(tmp_path: Path) -> None:
    wide = scene(2, 20, 12, 24).repeat(4, axis=1).repeat(4, axis=2)
    write_film(tmp_path / "film.mp4", wide, Fraction(15), "libx264")
    data = bytearray((tmp_path / "film.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 20] = struct.pack(">5i", 0, 1 << 16, 0, -(1 << 16), 0)  # a quarter turn clockwise
    (tmp_path / "film.mp4").write_bytes(data)
    part = Part(tmp_path / "film.mp4", "video_files")
    frames = np.concatenate([chunk.frames for chunk in video_files.read(part)])
    assert frames.shape == (20, 96, 48, 3)
    assert np.abs(frames.astype(int) - np.rot90(wide, -1, axes=(1, 2))).mean() < 12


def test_motion_is_not_a_cut() -> None:
    ramp = np.abs(np.arange(SIDE) * 4 - 128).astype(np.uint8)[None, :, None].repeat(SIDE, 0).repeat(3, 2)
    scrolling = np.stack([np.roll(ramp, 3 * t, axis=1) for t in range(60)])
    assert jumps(scrolling[1:2], scrolling[0])[0] > 10
    starts = CutDetector().starts(np.concatenate([scrolling, EPISODES[1]]))
    np.testing.assert_array_equal(np.flatnonzero(starts), [0, 60])


def test_cuts_divide_a_film_without_marks(tmp_path: Path) -> None:
    write_mp4(tmp_path / "all.mkv", FRAMES, 15, lossless=True)
    whole, _ = imported(tmp_path / "all.mkv", tmp_path / "whole")
    assert whole.lengths.tolist() == [len(FRAMES)]
    cut, _ = imported(tmp_path / "all.mkv", tmp_path / "cut", split="cuts")
    assert cut.lengths.tolist() == LENGTHS


def test_cuts_are_detected_across_blocks() -> None:
    detector = CutDetector()
    starts = np.concatenate([detector.starts(FRAMES[i : i + 7]) for i in range(0, len(FRAMES), 7)])
    np.testing.assert_array_equal(starts, firsts(LENGTHS))


def test_frames_show_which_frame_done_marks() -> None:
    assert done_means(firsts(LENGTHS), iter([FRAMES])) == "first"
    assert done_means(lasts(LENGTHS), iter([FRAMES])) == "last"


def test_gray_alpha_and_channels_first(tmp_path: Path) -> None:
    np.save(tmp_path / "gray.npy", FRAMES[..., 0])
    np.save(tmp_path / "alpha.npy", np.concatenate([FRAMES, np.full_like(FRAMES[..., :1], 255)], axis=3))
    np.save(tmp_path / "first.npy", FRAMES.transpose(0, 3, 1, 2))
    gray, _ = imported(tmp_path / "gray.npy", tmp_path / "a")
    np.testing.assert_array_equal(gray.frames[:, 1], FRAMES[..., 0])
    for name, folder in (("alpha", "b"), ("first", "c")):
        videos, _ = imported(tmp_path / f"{name}.npy", tmp_path / folder)
        np.testing.assert_array_equal(np.asarray(videos.frames).transpose(0, 2, 3, 1), FRAMES)


def test_bad_files_are_skipped_on_request_up_to_one_in_twenty(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    write_npy(folder)
    (folder / "9.npy").write_text("hello")
    videos, manifest = imported(folder, tmp_path / "data", skip_bad=True)
    assert videos.lengths.tolist() == LENGTHS
    assert len(manifest.skipped) == 1
    assert {file.name for file in (tmp_path / "data").iterdir()} == {"frames.npy", "manifest.json"}
    assert "9.npy: array.npy" not in manifest.skipped[0]
    (folder / "8.npy").write_text("hello")
    with pytest.raises(UserError, match="2 of 5 files are bad, more than 5%"):
        imported(folder, tmp_path / "more", skip_bad=True)


def test_users_can_raise_limits(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", obs=np.zeros((999, 64, 64, 3), np.uint8))
    videos, _ = imported(tmp_path / "a.npz", tmp_path / "data", limits=Limits(ratio=2000.0))
    assert len(videos.frames) == 999
    with pytest.raises(UserError, match="more than 0 GiB"):
        imported(tmp_path / "a.npz", tmp_path / "b", limits=Limits(file_gib=0.0))


def test_arrays_other_than_the_frames_are_ignored(tmp_path: Path) -> None:
    """Sparse rewards compress beyond the limit for frames, and other arrays may have any type."""
    rewards = np.zeros(len(FRAMES) * 10_000, np.float32)
    fortran = np.asfortranarray(np.zeros((9, 9)))
    np.savez_compressed(tmp_path / "a.npz", obs=FRAMES, rewards=rewards, actions=fortran, info=np.array([{}], object))
    videos, _ = imported(tmp_path / "a.npz", tmp_path / "data")
    assert len(videos.frames) == len(FRAMES)


def test_a_folder_with_other_files_in_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_films(source)
    (source / "._0.mkv").write_text("metadata of macOS")
    (source / "again").symlink_to(source)
    imported(source, source / "data")
    videos, _ = imported(source, tmp_path / "data")
    assert videos.lengths.tolist() == LENGTHS
    with pytest.raises(UserError, match="is a dataset already"):
        imported(tmp_path / "data", tmp_path / "more")


def test_a_full_disk_is_not_blamed_on_the_source(tmp_path: Path) -> None:
    write_npy(tmp_path / "source")
    part = find_parts(tmp_path / "source", Options())[0]
    with pytest.raises(UserError, match="No space left"):
        importing._read(part, Path("/dev/full"), Options())


def test_inspect_and_export_by_command(dataset: Path, tmp_path: Path) -> None:
    done = invoke("videos", "inspect", str(dataset), "--out", str(tmp_path / "sheet.png"))
    assert done.returncode == 0, done.stderr
    assert "still frames" in done.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (12 * 66, 4 * 66)
    done = invoke("videos", "export", str(dataset), "--out", str(tmp_path / "films"), "--lossless")
    assert done.returncode == 0, done.stderr
    back, _ = imported(tmp_path / "films", tmp_path / "back", fps=15.0)
    np.testing.assert_array_equal(back.frames, open_videos(dataset, (3, SIDE, SIDE)).frames)


def test_still_and_repeated_frames_are_counted(tmp_path: Path) -> None:
    still = np.concatenate([EPISODES[0], EPISODES[0][-1:].repeat(20, axis=0)])
    (tmp_path / "source").mkdir()
    np.save(tmp_path / "source" / "0.npy", still)
    np.save(tmp_path / "source" / "1.npy", EPISODES[1])
    videos, _ = imported(tmp_path / "source", tmp_path / "data")
    shares = measure(videos)
    assert shares.still == pytest.approx(20 / 71)
    assert shares.repeated == 0
    np.save(tmp_path / "source" / "2.npy", EPISODES[1])
    videos, _ = imported(tmp_path / "source", tmp_path / "more")
    assert measure(videos).repeated == pytest.approx(62 / 102)
