"""Records an expert's episodes as a video dataset, with labels for evaluation in a file of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bcvlr_fast.envs import SUITES, chosen_rendering, parse_name, spec
from bcvlr_fast.envs.assets import drawing_digest
from bcvlr_fast.experts.expert import Expert
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import MANIFEST, DatasetWriter, Manifest, read_manifest
from bcvlr_fast.videos.labels import NO_ACTION, EvaluationLabels


def record(
    expert: Expert,
    folder: Path | None = None,
    *,
    frames: int = 100_000,
    steps: int = 0,
    rendering: str = "auto",
    screen: Screen,
    force: bool = False,
    dry_run: bool = False,
) -> Path:
    """Records an expert and returns the dataset's folder, which defaults to `default_folder`.

    Whole episodes are recorded until there are `frames` frames, or all that the expert has; `steps` > 0 records only
    the first steps of each episode of an expert that plays anew, and `rendering` is stock, fast or auto. A dataset that
    exists is kept unless it has too few frames or `force`; `dry_run` records nothing. Raises UserError if the disk is
    full or a replay does not match.
    """
    folder = folder or default_folder(expert, frames=frames, steps=steps, rendering=rendering)
    if dry_run or (_is_recorded(expert, folder, frames) and not force):
        return folder
    env, drawn = spec(expert.env), chosen_rendering(expert.env, rendering)
    actions: list[np.ndarray] = []
    scores: list[float] = []
    levels: list[int] = []
    lengths: list[int] = []
    last = np.full((1, env.actions.size), np.nan, np.float32) if env.actions.continuous else np.array([NO_ACTION])
    with DatasetWriter(folder, env.frame_shape) as writer:
        total = min(frames, expert.total_frames or frames)
        with screen.bar(f"recording {expert.env}", total=total, unit="frames") as bar:
            for episode in expert.episodes(frames, steps, drawn):
                writer.append(episode.frames)
                actions += [episode.actions, last.astype(episode.actions.dtype)]
                scores.append(episode.score)
                levels.append(episode.level)
                lengths.append(len(episode.frames))
                bar.advance(len(episode.frames))
        labels = EvaluationLabels(np.concatenate(actions), np.array(scores, np.float32), np.array(levels, np.int32))
        labels.save(writer.work)
        shown = drawn if SUITES[parse_name(expert.env)[0]].renderings else ""
        writer.commit(Manifest(expert.env, expert.source, lengths, list(env.frame_shape), rendering=shown))
    return folder


def _is_recorded(expert: Expert, folder: Path, frames: int) -> bool:
    """Whether the dataset in `folder` exists and has enough frames."""
    if not (folder / MANIFEST).exists():
        return False
    needed = min(frames, expert.total_frames or frames) if expert.extends else 0
    return sum(read_manifest(folder).lengths) >= needed


def default_folder(expert: Expert, *, frames: int = 100_000, steps: int = 0, rendering: str = "auto") -> Path:
    """Folder in the cache of such a recording; its name holds everything that the frames depend on."""
    suite = SUITES[parse_name(expert.env)[0]]
    parts = [expert.env.replace(":", "-"), expert.name]
    if not expert.extends:
        parts.append(str(frames))
    if expert.total_frames is None and steps:
        parts.append(str(steps))
    if suite.models is not None:
        drawn = chosen_rendering(expert.env, rendering)
        parts.append(f"{drawn}-{drawing_digest(suite.models, drawn)}")
    parts.append("64x64")
    if expert.total_frames is not None:
        parts.append("s0")  # the seed of the replays' environments
    return cache_folder() / "videos" / "_".join(parts)
