"""Films of the agent beside the expert, on the expert's level where it is known."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from bcvlr_fast.envs import spec
from bcvlr_fast.evaluation.evaluation import make_observed
from bcvlr_fast.methods.policy import Policy
from bcvlr_fast.videos import ExpertVideos
from bcvlr_fast.videos.labels import NO_LEVEL
from bcvlr_fast.videos.mp4 import write_mp4

_GAP = 4
_MAX_STEPS = 600
_SEED = 7


def write_films(
    policy: Policy, expert: ExpertVideos, levels: np.ndarray | None, folder: Path, count: int
) -> list[Path]:
    """Writes up to `count` mp4 files `agent | expert`, one for each episode of `expert`; returns their paths.

    The agent plays on the level of the episode if `levels` [E] has it, otherwise from another start.
    """
    folder.mkdir(exist_ok=True)
    paths = []
    for episode in range(min(count, len(expert.lengths))):
        level = NO_LEVEL if levels is None else int(levels[episode])
        known = level != NO_LEVEL
        played = play_episode(policy, level if known else None, _SEED + episode)
        recorded = np.asarray(expert.part(episode, episode + 1).frames[: _MAX_STEPS + 1])
        name = f"level-{level}" if known else f"expert-episode-{episode}-other-start"
        path = folder / f"{name}-agent-expert.mp4"
        write_mp4(path, side_by_side(played, recorded), spec(policy.card.env).steps_per_s)
        paths.append(path)
    return paths


def play_episode(policy: Policy, level: int | None, seed: int) -> np.ndarray:
    """Frames [T, C, H, W] uint8 of one episode, up to 600 steps; discrete actions are those of `Policy.unstuck`."""
    unstuck = None if policy.card.actions.continuous else policy.unstuck(1, seed)
    with contextlib.closing(make_observed(policy, 1, seed, level)) as env:
        observed = env.reset()
        frames = [observed[0]]
        for n in range(_MAX_STEPS):
            actions = unstuck.act(observed, np.array([n == 0])) if unstuck else policy.act(observed)
            step = env.step(actions)
            observed = step.frames
            frames.append(observed[0])
            if step.ended[0]:
                break
    return np.stack(frames)[:, -policy.card.frame_shape[0] :]


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[T, H, W', 3] uint8 from two films [T, C, H, W]; the shorter one holds its last frame, darkened."""
    length = max(len(left), len(right))
    gap = np.zeros((length, left.shape[2], _GAP, 3), np.uint8)
    return np.concatenate([_extended(left, length), gap, _extended(right, length)], axis=2)


def _extended(film: np.ndarray, length: int) -> np.ndarray:
    pictures = film.transpose(0, 2, 3, 1)
    rest = np.repeat(pictures[-1:] // 3, length - len(pictures), axis=0)
    return np.concatenate([pictures, rest])
