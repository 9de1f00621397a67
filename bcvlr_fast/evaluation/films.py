"""Films: the agent beside the expert, on the expert's level."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch

from bcvlr_fast.config import Config
from bcvlr_fast.evaluation.evaluation import make_seen
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.videos import ExpertVideos
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos.labels import NO_LEVEL
from bcvlr_fast.videos.mp4 import write_mp4

_GAP = 4
_MOST_STEPS = 600
_SEED = 7


def write_films(
    agent: Agent, settings: Config, videos: ExpertVideos, held_out: ExpertVideos, folder: Path, count: int
) -> list[Path]:
    """Up to `count` mp4 files, `agent | expert`; on the expert's own held-out level where the labels tell it."""
    labels = evaluation_labels.load_labels(videos.path)
    expert = held_out if len(held_out.lengths) else videos
    first = len(videos.lengths) - len(expert.lengths)
    folder.mkdir(exist_ok=True)
    paths = []
    for episode in range(min(count, len(expert.lengths))):
        level = int(labels.level[first + episode]) if labels else NO_LEVEL
        known = level != NO_LEVEL
        played = play_episode(agent, settings, level if known else None, _SEED + episode)
        shown = expert.part(episode, episode + 1).frames[: _MOST_STEPS + 1]
        name = f"level-{level}" if known else f"expert-episode-{episode}-other-start"
        path = folder / f"{name}-agent-expert.mp4"
        write_mp4(path, side_by_side(played, np.asarray(shown)), agent.spec.steps_per_s)
        paths.append(path)
    return paths


def play_episode(agent: Agent, settings: Config, level: int | None, seed: int) -> np.ndarray:
    """Frames [T, C, H, W] uint8 of one episode of the sampled policy, at most 600 steps; of a continuous one without
    noise."""
    generator = None
    if not agent.spec.actions.continuous:
        generator = torch.Generator(agent.compute.device)
        generator.manual_seed(seed)
    with contextlib.closing(make_seen(settings, 1, seed, level)) as env:
        seen = env.reset()
        frames = [seen[0]]
        for _ in range(_MOST_STEPS):
            actions = agent.act(torch.from_numpy(seen).to(agent.compute.device), generator)
            step = env.step(actions.cpu().numpy())
            seen = step.frames
            frames.append(seen[0])
            if step.ended[0]:
                break
    return np.stack(frames)[:, -agent.spec.frame_shape[0] :]


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[T, H, W', 3] uint8 from two films [T, C, H, W]; the shorter one stays, darkened, on its last frame."""
    length = max(len(left), len(right))
    gap = np.zeros((length, left.shape[2], _GAP, 3), np.uint8)
    return np.concatenate([_lasting(left, length), gap, _lasting(right, length)], axis=2)


def _lasting(film: np.ndarray, length: int) -> np.ndarray:
    shown = film.transpose(0, 2, 3, 1)
    rest = np.repeat(shown[-1:] // 3, length - len(shown), axis=0)
    return np.concatenate([shown, rest])
