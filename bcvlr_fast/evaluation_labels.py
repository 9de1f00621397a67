"""Actions and returns of recorded experts, for evaluation and health figures: no stage of training reads them.

They lie beside the frames of a dataset and answer two questions: how well latent actions name
true ones (the probes), and how well the expert scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcvlr_fast.errors import UserError
from bcvlr_fast.videos import NOT_NUMPY

FILE = "evaluation_only.npz"
NO_ACTION = 255


@dataclass(frozen=True)
class EvaluationLabels:
    """`action` [N] uint8 taken on each frame of the dataset, NO_ACTION on an episode's last;
    `episode_return` [E] float32; `level` [E] int32."""

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
