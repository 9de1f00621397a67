"""Plays episodes and summarizes their scores as a mean with a confidence interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bcvlr_fast.envs.interface import PixelEnv
from bcvlr_fast.system.screen import Bar

EVALUATION_SEED = 2**30
"""Seed of environments for evaluation; those for training have smaller seeds."""
_RESAMPLES = 10_000
_DRAWN_AT_ONCE = 4_000_000


class Turn(NamedTuple):
    """What the k environments that are stepped next show."""

    frames: np.ndarray
    """[k, C, H, W] uint8."""
    first: np.ndarray
    """[k] bool: whether a frame is the first of its episode."""
    envs: np.ndarray
    """[k] int64: numbers of the environments."""


Act = Callable[[Turn], np.ndarray]
"""Actions [k, ...] for a turn."""


@dataclass(frozen=True)
class Score:
    """Mean score of some episodes with its standard error and 95 % confidence interval (bootstrap percentiles)."""

    mean: float
    standard_error: float
    low: float
    high: float
    episodes: int
    mean_length_steps: float | None = None

    @classmethod
    def of(cls, scores: np.ndarray, lengths: np.ndarray | None = None) -> Score:
        """Summarizes the scores [E] of E episodes and their lengths [E] in steps."""
        scores = np.asarray(scores, np.float64)
        rng = np.random.default_rng(0)
        block = max(1, _DRAWN_AT_ONCE // len(scores))
        blocks = [min(block, _RESAMPLES - done) for done in range(0, _RESAMPLES, block)]
        means = np.concatenate([rng.choice(scores, (rows, len(scores))).mean(axis=1) for rows in blocks])
        low, high = np.percentile(means, [2.5, 97.5])
        error = scores.std(ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
        length = None if lengths is None else float(np.mean(lengths))
        return cls(float(scores.mean()), float(error), float(low), float(high), len(scores), length)


def play(env: PixelEnv, act: Act, episodes: int, bar: Bar | None = None) -> Score:
    """Plays `episodes` episodes and returns their score.

    The number of episodes in each environment is fixed in advance: taking the first to finish would favor short ones.
    """
    quota = np.full(env.num_envs, episodes // env.num_envs)
    quota[: episodes % env.num_envs] += 1
    frames, first = env.reset(), np.ones(env.num_envs, bool)
    scores, lengths = [], []
    active = np.flatnonzero(quota)
    while len(active):
        step = env.step(act(Turn(frames[active], first[active], active)), active)
        frames[active], first[active] = step.next_frames(), step.ended
        for episode in env.pop_episodes():
            scores.append(episode.score)
            lengths.append(episode.length_steps)
            quota[episode.env] -= 1
            if bar:
                bar.advance()
        active = np.flatnonzero(quota)
    return Score.of(np.array(scores), np.array(lengths))
