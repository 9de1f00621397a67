"""Actions and returns of recorded experts, for evaluation and health figures: no stage of training reads them.

They lie beside the frames of a dataset and answer two questions: how well latent actions name
true ones (the probes), and how well the expert scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcvlr_fast.envs.specs import Actions
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import NOT_NUMPY

FILE = "evaluation_only.npz"
NO_ACTION = 255
NO_LEVEL = -1


@dataclass(frozen=True)
class EvaluationLabels:
    """`action` [N] uint8 taken on each frame of the dataset, NO_ACTION on an episode's last (or float32 [N, A], NaN
    there, in the source's own numbers); `episode_return` [E] float32, NaN where the source did not say;
    `level` [E] int32, NO_LEVEL where it did not."""

    action: np.ndarray
    episode_return: np.ndarray
    level: np.ndarray

    def save(self, folder: Path) -> None:
        np.savez_compressed(folder / FILE, action=self.action, episode_return=self.episode_return, level=self.level)


def load(folder: Path) -> EvaluationLabels | None:
    """Labels of a dataset folder; None where there are none."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as data:
            return EvaluationLabels(data["action"], data["episode_return"], data["level"])
    except (*NOT_NUMPY, KeyError) as error:
        raise UserError(f"videos: {file}: not evaluation labels ({error})") from None


def as_actions(action: np.ndarray, ends: np.ndarray, actions: Actions) -> np.ndarray | None:
    """Labels `action` as actions [N, ...] of an environment, continuous ones in -1..1, discrete ones from 0; None where
    there are none.

    Raises ValueError where one of those before the `ends` [E] of episodes is not the environment's.
    """
    continuous = action.ndim == 2
    if not (np.isfinite(action) if continuous else action != NO_ACTION).any():
        return None
    if continuous and actions.continuous and action.shape[1] == actions.size:
        action = actions.scaled(action)
    elif not continuous and actions.own_start:
        action = np.where(action == NO_ACTION, -1, action.astype(np.int64) - actions.own_start)
    taken = np.delete(action, ends, axis=0)
    actions.check(taken, len(taken))
    return action


def from_source(lengths: np.ndarray, action: np.ndarray | None, reward: np.ndarray | None) -> EvaluationLabels:
    """Labels of imported videos with episodes of `lengths` [E]: `action` [N] or [N, A], `reward` [N], or None."""
    ends = lengths.cumsum() - 1
    frames = int(lengths.sum())
    kept: np.ndarray
    if action is None:
        kept = np.full(frames, NO_ACTION, np.uint8)
    elif (
        action.size == frames
        and (action == action.astype(np.int64)).all()
        and 0 <= action.min() <= action.max() < NO_ACTION
    ):
        kept = action.reshape(-1).astype(np.uint8)
        kept[ends] = NO_ACTION
    else:
        kept = action.reshape(frames, -1).astype(np.float32)
        kept[ends] = np.nan
    returns = np.full(len(lengths), np.nan, np.float32)
    if reward is not None:
        if reward.size != frames:
            raise UserError(f"labels: expected a reward for each of {frames:,} frames, got {list(reward.shape)}")
        returns = np.add.reduceat(reward.reshape(frames).astype(np.float32), ends - lengths + 1)
    return EvaluationLabels(kept, returns, np.full(len(lengths), NO_LEVEL, np.int32))
