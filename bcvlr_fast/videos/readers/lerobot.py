"""Reads LeRobot datasets of version 3: mp4 files of several episodes, whose boundaries are in parquet files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.videos.readers import video_files
from bcvlr_fast.videos.readers.chunks import Part, Reader, Unreadable

_INFO = "meta/info.json"


def is_dataset(path: Path) -> bool:
    """Whether `path` is the root folder of a LeRobot dataset."""
    return (path / _INFO).is_file()


def parts(root: Part) -> list[Part]:
    """One part per mp4 file of the camera `root.key`. Raises Unreadable if the dataset or the camera is not usable."""
    info = _info(root.path)
    if not str(info.get("codebase_version", "")).startswith("v3"):
        raise Unreadable(f"{_INFO}: expected codebase_version v3.x, got {info.get('codebase_version')}")
    cameras = [name for name, f in info.get("features", {}).items() if f.get("dtype") == "video"]
    if root.key is not None and root.key not in cameras:
        raise Unreadable(f"key: no camera '{root.key}' (found {', '.join(cameras) or 'none'})")
    if root.key is None and len(cameras) != 1:
        raise Unreadable(f"expected one camera, found {', '.join(cameras) or 'none'} (--key chooses)")
    camera = root.key or cameras[0]
    files = sorted({(row["chunk"], row["file"]) for row in _episodes(root.path, camera)})
    pattern = info.get("video_path", "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4")
    names = [pattern.format(video_key=camera, chunk_index=chunk, file_index=file) for chunk, file in files]
    for name in names:
        if not (root.path / name).resolve().is_relative_to(root.path.resolve()):
            raise Unreadable(f"{_INFO}: {name} lies outside the dataset")
    return [replace(root, path=root.path / name, key=camera) for name in names]


def read(part: Part) -> Reader:
    """Yields the frames of one mp4 file with episode starts, and labels if `part.wants_labels`."""
    root = next(folder for folder in part.path.parents if is_dataset(folder))
    assert part.key is not None
    rows = [row for row in _episodes(root, part.key) if _file_name(part.path) == (row["chunk"], row["file"])]
    begins = np.array([row["from_s"] for row in rows])
    ends = np.array([row["to_s"] for row in rows])
    labels = _labels(root, [row["episode"] for row in rows]) if part.wants_labels else {}
    fps = float(_info(root)["fps"])
    half_s = 0.5 / fps
    previous = -1
    for chunk in video_files.read(replace(part, key=None)):
        assert chunk.time_s is not None
        episode = np.searchsorted(begins - half_s, chunk.time_s, side="right") - 1
        inside = (episode >= 0) & (chunk.time_s < ends[episode] - half_s)
        episode = episode[inside]
        starts = np.diff(episode, prepend=previous) != 0
        previous = int(episode[-1]) if len(episode) else previous
        if not len(episode):
            continue
        times = chunk.time_s[inside]
        steps = np.rint((times - begins[episode]) * fps).astype(np.int64)
        chunk_labels = {name: _at(name, values, episode, steps) for name, values in labels.items()}
        yield chunk._replace(frames=chunk.frames[inside], starts=starts, time_s=times, labels=chunk_labels)


def _at(name: str, values: list[np.ndarray], episode: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Labels [n, ...] of frames, from the label arrays [T, ...] of their episodes."""
    if any(step[episode == e].max() >= len(values[e]) for e in np.unique(episode)):
        raise Unreadable(f"data: '{name}' has fewer rows than the film has frames")
    return np.stack([values[e][s] for e, s in zip(episode, step, strict=True)])


def _info(root: Path) -> dict[str, Any]:
    try:
        info = json.loads((root / _INFO).read_text())
        float(info["fps"])
        return dict(info)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{_INFO}: not of a LeRobot dataset ({error})") from None


def _episodes(root: Path, camera: str) -> list[dict[str, Any]]:
    """Chunk, file and time span of each episode of a camera, in order."""
    prefix = f"videos/{camera}/"
    names = {
        "episode_index": "episode",
        f"{prefix}chunk_index": "chunk",
        f"{prefix}file_index": "file",
        f"{prefix}from_timestamp": "from_s",
        f"{prefix}to_timestamp": "to_s",
    }
    columns = _table(sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet")), list(names))
    episodes = [dict(zip(names.values(), values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if not episodes:
        raise Unreadable("meta/episodes: expected episodes, found none")
    return sorted(episodes, key=lambda row: row["episode"])


def _labels(root: Path, episodes: list[int]) -> dict[str, list[np.ndarray]]:
    """Label arrays [T, ...] of the given episodes, by label name."""
    files = sorted((root / "data").glob("chunk-*/file-*.parquet"))
    columns, optional = ["episode_index", "frame_index", "action", "next.reward"], ("action", "next.reward")
    rows = _table(files, columns, optional, [("episode_index", "in", episodes)])
    episode, frame = np.array(rows["episode_index"]), np.array(rows["frame_index"])
    order = np.lexsort((frame, episode))
    limits = np.searchsorted(episode[order], episodes, side="right")[:-1]
    for number, rows_of_one in zip(episodes, np.split(frame[order], limits), strict=True):
        if not np.array_equal(rows_of_one, np.arange(len(rows_of_one))):
            raise Unreadable(f"data: episode {number} lacks rows")
    return {
        label: np.split(np.array(rows[column])[order], limits)
        for label, column in (("action", "action"), ("reward", "next.reward"))
        if column in rows
    }


def _table(
    files: list[Path], columns: list[str], optional: tuple[str, ...] = (), row_filter: list[Any] | None = None
) -> dict[str, list[Any]]:
    """Columns of parquet files, concatenated; `optional` columns may be missing. Raises Unreadable."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise Unreadable("LeRobot datasets need the package 'pyarrow' (extra [lerobot])") from None
    table: dict[str, list[Any]] = {}
    for file in files:
        try:
            available = pyarrow.parquet.read_schema(file).names
            names = [name for name in columns if name in available or name not in optional]
            rows = pyarrow.parquet.read_table(file, columns=names, partitioning=None, filters=row_filter)
            for name in names:
                table.setdefault(name, []).extend(rows[name].to_pylist())
        except (OSError, pyarrow.ArrowException, KeyError) as error:
            raise Unreadable(f"{file.name}: {error}") from None
    return table


def _file_name(path: Path) -> tuple[int, int]:
    """(chunk, file) numbers of a path .../chunk-000/file-000.mp4."""
    return int(path.parent.name.rpartition("-")[2]), int(path.stem.rpartition("-")[2])
