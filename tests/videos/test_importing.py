"""Every format in and out, from files made here; marks, rates, limits, damage."""

import json
import math
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import ExpertVideos, Manifest, importing, open_videos
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos.importing import Options, find_parts, import_videos
from bcvlr_fast.videos.labels import NO_ACTION, NO_LEVEL
from bcvlr_fast.videos.marks import CutDetector, done_means, jumps
from bcvlr_fast.videos.mp4 import write_mp4
from bcvlr_fast.videos.readers import lerobot, video_files
from bcvlr_fast.videos.readers.chunks import Chunk, Limits, Part, Unreadable
from bcvlr_fast.videos.sampling import TimeSampler
from helpers.tiny import run, wait_until

LENGTHS = [20, 31, 17]
SIDE = 64
QUIET = Screen(quiet=True)


def scene(seed: int, length: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """[length, height, width, 3] uint8: a square that wanders over a still picture."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 200, (1, height, width, 3), dtype=np.uint8), length, axis=0)
    for t in range(length):
        x = (seed * 7 + 2 * t) % (width - 8)
        frames[t, height // 2 : height // 2 + 8, x : x + 8] = 255
    return frames


EPISODES = [scene(i, n) for i, n in enumerate(LENGTHS)]
FRAMES = np.concatenate(EPISODES)
ACTIONS = np.random.default_rng(9).integers(0, 15, len(FRAMES))
REWARDS = np.random.default_rng(8).random(len(FRAMES)).astype(np.float32)


def imported(source: Path, folder: Path, **options: object) -> tuple[ExpertVideos, Manifest]:
    import_videos(source, folder, Options(**options), QUIET)  # type: ignore[arg-type]
    videos = open_videos(folder, (3, SIDE, SIDE))
    return videos, videos.manifest


def firsts(lengths: list[int]) -> np.ndarray:
    marks = np.zeros(sum(lengths), bool)
    marks[np.cumsum([0, *lengths[:-1]])] = True
    return marks


def lasts(lengths: list[int]) -> np.ndarray:
    return np.roll(firsts(lengths), -1)


def write_films(folder: Path) -> None:
    folder.mkdir()
    for i, frames in enumerate(EPISODES):
        write_mp4(folder / f"{i}.mkv", frames, 15, lossless=True)


def write_images(folder: Path) -> None:
    for i, frames in enumerate(EPISODES):
        (folder / f"episode{i}").mkdir(parents=True)
        for t, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"episode{i}" / f"frame{t}.png")


def write_npy(folder: Path) -> None:
    folder.mkdir()
    for i, frames in enumerate(EPISODES):
        np.save(folder / f"{i}.npy", frames)


def write_lapo(folder: Path) -> None:
    """done stands on the first frame of an episode."""
    folder.mkdir()
    marks = firsts(LENGTHS)
    marks[0] = False
    np.savez_compressed(folder / "0.npz", obs=FRAMES, ta=ACTIONS, done=marks, rewards=REWARDS, values=REWARDS)


def write_stacked(folder: Path) -> None:
    """Stacks of three frames, channels first, the oldest first, and done on the last frame of an episode."""
    folder.mkdir()
    stacks = []
    for frames in EPISODES:
        first = frames.transpose(0, 3, 1, 2)
        padded = np.concatenate([first[:1], first[:1], first])
        stacks.append(np.concatenate([padded[:-2], padded[1:-1], padded[2:]], axis=1))
    np.savez(folder / "100000.npz", obs=np.concatenate(stacks), done=lasts(LENGTHS)[:, None].astype(np.float32))


def write_minari(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        starts = np.cumsum([0, *LENGTHS])
        for i, frames in enumerate(EPISODES):
            group = file.create_group(f"episode_{i}")
            group["observations"] = frames
            group["actions"] = ACTIONS[starts[i] : starts[i + 1] - 1]
            group["rewards"] = REWARDS[starts[i] : starts[i + 1] - 1]
            group["terminations"] = np.arange(len(frames) - 1) == len(frames) - 2
            group["infos/mask"] = np.zeros((len(frames), 4, 4), np.uint8)


def write_robomimic(folder: Path) -> None:
    folder.mkdir()
    with h5py.File(folder / "demos.hdf5", "w") as file:
        for i in (2, 0, 1):
            for name in ("obs", "next_obs"):
                file[f"data/demo_{i}/{name}/agentview_image"] = EPISODES[i]
            file[f"data/demo_{i}/dones"] = np.arange(len(EPISODES[i])) > 10


def write_aloha(folder: Path) -> None:
    folder.mkdir()
    starts = np.cumsum([0, *LENGTHS])
    for i, frames in enumerate(EPISODES):
        with h5py.File(folder / f"episode_{i}.hdf5", "w") as file:
            file["observations/images/top"], file["observations/qpos"] = frames, np.zeros((len(frames), 14))
            file["action"] = ACTIONS[starts[i] : starts[i + 1]]


def write_flat_hdf5(folder: Path) -> None:
    folder.mkdir()
    with h5py.File(folder / "flat.h5", "w") as file:
        file["observations"], file["is_first"] = FRAMES, firsts(LENGTHS)


def write_lerobot(folder: Path) -> None:
    camera = "observation.images.top"
    film = folder / "videos" / camera / "chunk-000" / "file-000.mp4"
    film.parent.mkdir(parents=True)
    write_mp4(film, FRAMES, 15, lossless=True)
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    info = {"codebase_version": "v3.0", "fps": 15, "features": {camera: {"dtype": "video"}, "action": {}}}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    ends = np.cumsum(LENGTHS) / 15
    table = {
        "episode_index": [0, 1, 2],
        f"videos/{camera}/chunk_index": [0, 0, 0],
        f"videos/{camera}/file_index": [0, 0, 0],
        f"videos/{camera}/from_timestamp": [0.0, *ends[:-1]],
        f"videos/{camera}/to_timestamp": list(ends),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "meta/episodes/chunk-000/file-000.parquet")
    (folder / "data" / "chunk-000").mkdir(parents=True)
    data = {
        "episode_index": np.repeat([0, 1, 2], LENGTHS),
        "frame_index": np.concatenate([np.arange(n) for n in LENGTHS]),
        "action": [[float(a), 0.5] for a in ACTIONS],
        "next.reward": REWARDS,
    }
    pyarrow.parquet.write_table(pyarrow.table(data), folder / "data/chunk-000/file-000.parquet")


LOSSLESS: list[Callable[[Path], None]] = [
    write_films,
    write_images,
    write_npy,
    write_lapo,
    write_stacked,
    write_minari,
    write_robomimic,
    write_aloha,
    write_flat_hdf5,
    write_lerobot,
]


@pytest.mark.parametrize("write", LOSSLESS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_every_format_gives_back_frames_and_episodes(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "source")
    videos, manifest = imported(tmp_path / "source", tmp_path / "data", fps=15.0)
    assert videos.lengths.tolist() == LENGTHS
    np.testing.assert_array_equal(np.asarray(videos.frames).transpose(0, 2, 3, 1), FRAMES)
    assert manifest.source_sizes == [[SIDE, SIDE]]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["frames.npy", "manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "source"]


LABELLED = [write_lapo, write_minari, write_aloha, write_lerobot]


@pytest.mark.parametrize("write", LABELLED, ids=["npz", "minari", "aloha", "lerobot"])
def test_labels_are_kept_only_on_request_and_apart(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "source")
    done = run("import", str(tmp_path / "source"), "--out", str(tmp_path / "data"), "--keep-labels", module="videos")
    assert done.returncode == 0, done.stderr
    labels = evaluation_labels.load_labels(tmp_path / "data")
    assert labels is not None
    ends = np.cumsum(LENGTHS) - 1
    kept = np.delete(np.arange(len(FRAMES)), ends)
    if write is write_lerobot:
        np.testing.assert_array_equal(labels.action[kept, 0], ACTIONS[kept])
    else:
        np.testing.assert_array_equal(labels.action[kept], ACTIONS[kept])
        assert (labels.action[ends] == NO_ACTION).all()
    assert (labels.level == NO_LEVEL).all()
    if write is write_aloha:  # which has none
        assert np.isnan(labels.episode_return).all()
    else:
        last = 0 if write is write_minari else 1  # it has no reward after the last observation
        wanted = [REWARDS[e - n + 1 : e + last].sum() for e, n in zip(ends, LENGTHS, strict=True)]
        np.testing.assert_allclose(labels.episode_return, wanted, rtol=1e-5)


@pytest.mark.parametrize("fps", ["5", "7.5"])
def test_rewards_of_frames_left_out_are_added_up(tmp_path: Path, fps: str) -> None:
    write_lerobot(tmp_path / "source")
    arguments = ["import", str(tmp_path / "source"), "--out", str(tmp_path / "data"), "--keep-labels", "--fps", fps]
    done = run(*arguments, module="videos")
    assert done.returncode == 0, done.stderr
    every = round(15 / float(fps))
    assert open_videos(tmp_path / "data", (3, SIDE, SIDE)).lengths.tolist() == [-(-n // every) for n in LENGTHS]
    labels = evaluation_labels.load_labels(tmp_path / "data")
    assert labels is not None
    wanted = [part.sum() for part in np.split(REWARDS, np.cumsum(LENGTHS)[:-1])]
    np.testing.assert_allclose(labels.episode_return, wanted, rtol=1e-5)


def test_labels_of_lerobot_are_found_by_their_frame(tmp_path: Path) -> None:
    """The film has a frame fewer than the data, at the end of the first episode."""
    write_lerobot(tmp_path / "source")
    table = next((tmp_path / "source").glob("meta/episodes/*/*.parquet"))
    column = "videos/observation.images.top/to_timestamp"
    episodes = pyarrow.parquet.read_table(table).to_pydict()
    episodes[column][0] -= 1 / 15
    pyarrow.parquet.write_table(pyarrow.table(episodes), table)
    part = lerobot.parts(Part(tmp_path / "source", "lerobot", wants_labels=True))[0]
    actions = np.concatenate([chunk.labels["action"][:, 0] for chunk in lerobot.read(part)])
    np.testing.assert_array_equal(actions, np.delete(ACTIONS, LENGTHS[0] - 1))
    data = next((tmp_path / "source").glob("data/*/*.parquet"))
    whole = pyarrow.parquet.read_table(data)
    for rows, said in ((whole.slice(1), "episode 0 lacks rows"), (whole.slice(0, 60), "fewer rows than the film")):
        pyarrow.parquet.write_table(rows, data)
        with pytest.raises(Unreadable, match=said):
            list(lerobot.read(part))


def test_labels_that_are_not_there_are_bad_input(tmp_path: Path) -> None:
    write_npy(tmp_path / "source")
    done = run("import", str(tmp_path / "source"), "--out", str(tmp_path / "data"), "--keep-labels", module="videos")
    assert done.returncode == 2
    assert "expected actions or rewards in every file, found none" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_films_of_any_size_and_rate_become_the_environments(tmp_path: Path, suffix: str) -> None:
    steps = scene(3, 25)
    shown = steps.repeat(4, axis=0).repeat(2, axis=1).repeat(2, axis=2)  # 60 frames a second, 128 x 128
    codec = {"webm": "libvpx-vp9"}.get(suffix, "libx264")
    write_film(tmp_path / f"film.{suffix}", shown, Fraction(60), codec)
    videos, manifest = imported(tmp_path / f"film.{suffix}", tmp_path / "data", fps=15.0)
    assert (manifest.source_fps, manifest.fps, manifest.source_sizes) == (60.0, 15.0, [[128, 128]])
    assert videos.lengths.tolist() == [25]
    for t, frame in enumerate(np.asarray(videos.frames).transpose(0, 2, 3, 1).astype(int)):
        errors = np.abs(steps.astype(int) - frame).mean(axis=(1, 2, 3))
        assert errors.argmin() == t  # every step is there, none twice
        assert errors[t] < 12  # of 255: chroma subsampling and the codec, on noise


def test_a_film_slower_than_the_environment_keeps_every_frame(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", scene(1, 30), Fraction(10), "libx264")
    videos, manifest = imported(tmp_path / "film.mp4", tmp_path / "data", fps=15.0)
    assert (len(videos.frames), manifest.fps) == (30, 10.0)


def test_a_rate_that_changes_keeps_time() -> None:
    """A second at 10 frames a second, then a second at 60: 10 and 15 frames of it."""
    times = np.concatenate([np.arange(10) / 10, 1 + np.arange(60) / 60])
    sampler = TimeSampler(15.0)
    kept = [sampler.choose(Chunk(FRAMES[: len(t)], time_s=t), marked=True)[0] for t in np.split(times, [33])]
    rows = np.concatenate([kept[0], 33 + kept[1]])
    np.testing.assert_array_equal(rows, [*range(10), *range(10, 70, 4)])


def test_a_film_is_turned_as_players_turn_it(tmp_path: Path) -> None:
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


def test_motion_is_no_cut() -> None:
    ramp = np.abs(np.arange(SIDE) * 4 - 128).astype(np.uint8)[None, :, None].repeat(SIDE, 0).repeat(3, 2)
    scrolling = np.stack([np.roll(ramp, 3 * t, axis=1) for t in range(60)])
    assert jumps(scrolling[1:2], scrolling[0])[0] > 10
    found = CutDetector().starts(np.concatenate([scrolling, EPISODES[1]]))
    np.testing.assert_array_equal(np.flatnonzero(found), [0, 60])


def write_film(file: Path, frames: np.ndarray, rate: Fraction, codec: str) -> None:
    options = {"crf": "4", "b:v": "4M", "cpu-used": "5"} if codec == "libvpx-vp9" else {"crf": "4"}
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_cuts_divide_a_film_without_marks(tmp_path: Path) -> None:
    write_mp4(tmp_path / "all.mkv", FRAMES, 15, lossless=True)
    whole, _ = imported(tmp_path / "all.mkv", tmp_path / "whole")
    assert whole.lengths.tolist() == [len(FRAMES)]
    cut, _ = imported(tmp_path / "all.mkv", tmp_path / "cut", split="cuts")
    assert cut.lengths.tolist() == LENGTHS


def test_cuts_go_on_over_blocks() -> None:
    detector = CutDetector()
    found = np.concatenate([detector.starts(FRAMES[i : i + 7]) for i in range(0, len(FRAMES), 7)])
    np.testing.assert_array_equal(found, firsts(LENGTHS))


def test_the_picture_tells_what_done_stands_on() -> None:
    assert done_means(firsts(LENGTHS), iter([FRAMES])) == "first"
    assert done_means(lasts(LENGTHS), iter([FRAMES])) == "last"


def test_grey_alpha_and_channels_first(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", FRAMES[..., 0])
    np.save(tmp_path / "alpha.npy", np.concatenate([FRAMES, np.full_like(FRAMES[..., :1], 255)], axis=3))
    np.save(tmp_path / "first.npy", FRAMES.transpose(0, 3, 1, 2))
    grey, _ = imported(tmp_path / "grey.npy", tmp_path / "a")
    np.testing.assert_array_equal(grey.frames[:, 1], FRAMES[..., 0])
    for name, folder in (("alpha", "b"), ("first", "c")):
        videos, _ = imported(tmp_path / f"{name}.npy", tmp_path / folder)
        np.testing.assert_array_equal(np.asarray(videos.frames).transpose(0, 2, 3, 1), FRAMES)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "float.npy": (lambda f: np.save(f, np.zeros((5, 8, 8, 3), np.float32)), "expected uint8"),
    "flat.npy": (lambda f: np.save(f, np.zeros((5, 8), np.uint8)), "expected uint8"),
    "object.npy": (lambda f: np.save(f, np.array([{}], object), allow_pickle=True), "got objects"),
    "short.npy": (lambda f: np.save(f, np.zeros((2, 8, 8, 3), np.uint8)), "frames: expected >= 3, got 2"),
    "atari.npy": (lambda f: np.save(f, np.random.default_rng(0).integers(0, 9, (5, 8, 8, 4), np.uint8)), "four chang"),
    "picture.npy": (lambda f: np.save(f, FRAMES[0]), "got one picture"),
    "large.npy": (lambda f: np.save(f, np.zeros((3, 5000, 8, 3), np.uint8)), "sides of 1 to 4096"),
    "text.npy": (lambda f: f.write_text("hello"), "not a numpy array"),
    "empty.npy": (lambda f: f.write_bytes(b""), "not a numpy array"),
    "cut.npy": (lambda f: (np.save(f, FRAMES), cut_off(f)), "its header promises"),
    "text.npz": (lambda f: f.write_text("hello"), "not a whole archive"),
    "cut.npz": (lambda f: (np.savez(f, obs=FRAMES), cut_off(f)), "not a whole archive"),
    "bomb.npz": (lambda f: np.savez_compressed(f, obs=np.zeros((999, 64, 64, 3), np.uint8)), "200 times its size"),
    "two.npz": (lambda f: np.savez(f, left=FRAMES, right=FRAMES), "found left, right (--key chooses)"),
    "none.npz": (lambda f: np.savez(f, ta=ACTIONS), "expected one array of frames, found none"),
    "promise.npz": (lambda f: promise_more(f), "its header promises"),
    "damaged.npz": (lambda f: (np.savez_compressed(f, obs=FRAMES), overwrite(f)), "not a whole archive"),
    "text.h5": (lambda f: f.write_text("hello"), "not a whole HDF5 file"),
    "linked.h5": (lambda f: linked(f), "links out of the file"),
    "text.mp4": (lambda f: f.write_text("hello"), "not a whole video"),
    "empty.mp4": (lambda f: f.write_bytes(b""), "not a whole video"),
    "cut.mp4": (lambda f: (write_mp4(f, FRAMES), cut_off(f)), "not a whole video"),
    "cut.mkv": (lambda f: (write_mp4(f, np.tile(FRAMES, (2, 1, 1, 1)), lossless=True), cut_off(f)), "ends after"),
    "sound.mp4": (lambda f: sound(f), "expected a video stream, found none"),
    "folder": (lambda f: f.mkdir(), "found no videos"),
    "deep": (lambda f: (f.mkdir(), Image.new("I;16", (9, 9)).save(f / "0.png")), "expected 8 bits a channel"),
    "images": (lambda f: (f.mkdir(), (f / "0.png").write_text("hello")), "0.png: not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_videos_are_one_line_and_leave_nothing(tmp_path: Path, name: str) -> None:
    write, said = BAD[name]
    write(tmp_path / name)
    with pytest.raises(UserError) as error:
        import_videos(tmp_path / name, tmp_path / "data", Options(), QUIET)
    assert said in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwrite(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[1000:1100] = bytes(100)
    file.write_bytes(data)


def promise_more(file: Path) -> None:
    """An npz whose header speaks of more rows than follow."""
    with zipfile.ZipFile(file, "w") as archive, archive.open("obs.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 64, 64, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(64 * 64 * 3 * 5))


def linked(file: Path) -> None:
    with h5py.File(file, "w") as h5:
        h5["obs"] = h5py.ExternalLink("/etc/passwd", "/")


def sound(file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_bad_files_are_left_out_on_request_up_to_one_in_twenty(tmp_path: Path) -> None:
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


def test_limits_are_for_the_user_to_raise(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", obs=np.zeros((999, 64, 64, 3), np.uint8))
    videos, _ = imported(tmp_path / "a.npz", tmp_path / "data", limits=Limits(ratio=2000.0))
    assert len(videos.frames) == 999
    with pytest.raises(UserError, match="more than 0 GiB"):
        imported(tmp_path / "a.npz", tmp_path / "b", limits=Limits(file_gib=0.0))


def test_what_is_not_the_frames_may_be_anything(tmp_path: Path) -> None:
    """Sparse rewards compress more than a bomb may, and other arrays are of no weight."""
    rewards = np.zeros(len(FRAMES) * 10_000, np.float32)
    fortran = np.asfortranarray(np.zeros((9, 9)))
    np.savez_compressed(tmp_path / "a.npz", obs=FRAMES, rewards=rewards, actions=fortran, info=np.array([{}], object))
    videos, _ = imported(tmp_path / "a.npz", tmp_path / "data")
    assert len(videos.frames) == len(FRAMES)


def test_a_folder_with_other_things_in_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_films(source)
    (source / "._0.mkv").write_text("macOS keeps such")
    (source / "again").symlink_to(source)
    imported(source, source / "data")
    videos, _ = imported(source, tmp_path / "data")
    assert videos.lengths.tolist() == LENGTHS
    with pytest.raises(UserError, match="is a dataset already"):
        imported(tmp_path / "data", tmp_path / "more")


def test_a_full_disk_is_not_the_sources_fault(tmp_path: Path) -> None:
    write_npy(tmp_path / "source")
    part = find_parts(tmp_path / "source", Options())[0]
    with pytest.raises(UserError, match="No space left"):
        importing._read(part, Path("/dev/full"), Options())


def test_workers_end_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    """And the next import of the same name takes away what was left."""
    code = (
        "import time; from bcvlr_fast.workers import worker_pool\n"
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
    left = tmp_path / f".data.{owner.pid}"
    left.mkdir()
    write_npy(tmp_path / "source")
    imported(tmp_path / "source", tmp_path / "data")
    assert not left.exists()


def test_a_decoder_that_wants_too_much_is_one_line(tmp_path: Path) -> None:
    """The limits let the frame through, the limit on the worker's memory does not."""
    shape = (1, 60_000, 60_000, 3)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + math.prod(shape))  # a hole: no disk is taken
    options = Options(limits=Limits(side_px=60_000, file_gib=100))
    with pytest.raises(UserError, match=r"a\.npy: needs more than 6 GiB"):
        import_videos(tmp_path / "a.npy", tmp_path / "data", options, QUIET)


def test_inspect_and_export_by_command(dataset: Path, tmp_path: Path) -> None:
    done = run("inspect", str(dataset), "--out", str(tmp_path / "sheet.png"), module="videos")
    assert done.returncode == 0, done.stderr
    assert "still frames" in done.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (12 * 66, 4 * 66)
    done = run("export", str(dataset), "--out", str(tmp_path / "films"), "--lossless", module="videos")
    assert done.returncode == 0, done.stderr
    back, _ = imported(tmp_path / "films", tmp_path / "back", fps=15.0)
    np.testing.assert_array_equal(back.frames, open_videos(dataset, (3, SIDE, SIDE)).frames)


def test_still_and_repeated_frames_are_counted(tmp_path: Path) -> None:
    from bcvlr_fast.videos.inspection import measure

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
