"""Actions and returns of recorded experts, for evaluation and diagnostics only; no loss reads them.

They lie in a separate file beside the frames of a dataset. They measure how well latent actions predict true ones, and
how well the expert scores.
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
    """Labels of the N frames and E episodes of a dataset."""

    action: np.ndarray
    """[N] uint8 action taken on each frame, NO_ACTION on the last frame of an episode; or [N, A] float32 in the
    source's own units, NaN on the last frame."""
    episode_return: np.ndarray
    """[E] float32; NaN if unknown."""
    level: np.ndarray
    """[E] int32; NO_LEVEL if unknown."""

    def save(self, folder: Path) -> None:
        np.savez_compressed(folder / FILE, action=self.action, episode_return=self.episode_return, level=self.level)


def load_labels(folder: Path) -> EvaluationLabels | None:
    """Reads the labels of a dataset folder; None if it has none. Raises UserError if the file is damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as data:
            return EvaluationLabels(data["action"], data["episode_return"], data["level"])
    except (*NOT_NUMPY, KeyError) as error:
        raise UserError(f"videos: {file}: not evaluation labels ({error})") from None


def as_actions(action: np.ndarray, ends: np.ndarray, actions: Actions) -> np.ndarray | None:
    """Converts labels to actions [N, ...] of an environment: continuous ones to -1..1, discrete ones to 0, 1, ...

    `ends` [E] are the last rows of the episodes, which have no action. Returns None if no row has one. Raises
    ValueError if an action is not valid in the environment.
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


def labels_from_source(lengths: np.ndarray, action: np.ndarray | None, reward: np.ndarray | None) -> EvaluationLabels:
    """Labels of imported videos with episodes of `lengths` [E]; `action` is [N] or [N, A], `reward` [N], or None."""
    ends = lengths.cumsum() - 1
    frames = int(lengths.sum())
    stored: np.ndarray
    if action is None:
        stored = np.full(frames, NO_ACTION, np.uint8)
    elif (
        action.size == frames
        and (action == action.astype(np.int64)).all()
        and 0 <= action.min() <= action.max() < NO_ACTION
    ):
        stored = action.reshape(-1).astype(np.uint8)
        stored[ends] = NO_ACTION
    else:
        stored = action.reshape(frames, -1).astype(np.float32)
        stored[ends] = np.nan
    returns = np.full(len(lengths), np.nan, np.float32)
    if reward is not None:
        if reward.size != frames:
            raise UserError(f"labels: expected a reward for each of {frames:,} frames, got {list(reward.shape)}")
        returns = np.add.reduceat(reward.reshape(frames).astype(np.float32), ends - lengths + 1)
    return EvaluationLabels(stored, returns, np.full(len(lengths), NO_LEVEL, np.int32))
