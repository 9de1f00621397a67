"""Videos of a moving square in every format that can be imported."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import ExpertVideos, Manifest, open_videos
from bcvlr_fast.videos.importing import Options, import_videos
from bcvlr_fast.videos.mp4 import write_mp4

LENGTHS = [20, 31, 17]
SIDE = 64
QUIET = Screen(quiet=True)


def scene(seed: int, length: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """[length, height, width, 3] uint8: a square that moves over a static picture."""
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
    """Writes LAPO's format, in which `done` marks the first frame of an episode."""
    folder.mkdir()
    marks = firsts(LENGTHS)
    marks[0] = False
    np.savez_compressed(folder / "0.npz", obs=FRAMES, ta=ACTIONS, done=marks, rewards=REWARDS, values=REWARDS)


def write_stacked(folder: Path) -> None:
    """Writes stacks of three frames, channels first and oldest first; `done` marks the last frame of an episode."""
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


def write_film(file: Path, frames: np.ndarray, rate: Fraction, codec: str) -> None:
    options = {"crf": "4", "b:v": "4M", "cpu-used": "5"} if codec == "libvpx-vp9" else {"crf": "4"}
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


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
