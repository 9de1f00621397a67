"""Episodes of a policy in an environment, and their mean score with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bcvlr_fast.envs import PixelEnv
from bcvlr_fast.system.screen import Bar

EVALUATION_SEED = 2**30  # environments of training are seeded below it
_RESAMPLES = 10_000
_DRAWN_AT_ONCE = 4_000_000
Act = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Score:
    """Mean score of some episodes, its standard error and 95 % confidence interval (bootstrap percentiles)."""

    mean: float
    standard_error: float
    low: float
    high: float
    episodes: int
    mean_length_steps: float | None = None

    @classmethod
    def of(cls, scores: np.ndarray, lengths: np.ndarray | None = None) -> Score:
        """From the scores [E] of E episodes, and their lengths [E] in steps."""
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
    """Score of `episodes` episodes, their number in each environment fixed beforehand.

    Taking the first to finish instead would favour short episodes.
    """
    quota = np.full(env.num_envs, episodes // env.num_envs)
    quota[: episodes % env.num_envs] += 1
    frames = env.reset()
    scores, lengths = [], []
    active = np.flatnonzero(quota)
    while len(active):
        step = env.step(act(frames[active]), active)
        frames[active] = step.next_frames()
        for episode in env.pop_episodes():
            scores.append(episode.score)
            lengths.append(episode.length_steps)
            quota[episode.env] -= 1
            if bar:
                bar.advance()
        active = np.flatnonzero(quota)
    return Score.of(np.array(scores), np.array(lengths))
