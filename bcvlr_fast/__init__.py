"""BCV-LR: visual control policies from expert videos, without actions or rewards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcvlr_fast.system.errors import UserError

if TYPE_CHECKING:
    from bcvlr_fast.methods.policy import Policy

__version__ = "0.1.0"
__all__ = ["UserError", "load_policy", "train"]

# Idle OpenMP threads spin only briefly: updates keep their speed, EnvPool's threads get the cores (1.5 times the
# steps per second on two), and a busy machine stays responsive. OpenMP reads it when torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def train(
    env: str | Sequence[str],
    videos: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    minutes: float | None = None,
    **settings: Any,
) -> Path:
    """Trains a policy from expert videos and returns the run folder, as `python -m bcvlr_fast.train` does.

    `env` is a task such as "procgen:bossfight"; `videos` are files or folders in any format, by default the bundled
    expert; `minutes` is the time that the run may take, by default 15 on a CPU; `settings` are those of the command
    line, sections as dictionaries: `preset="quick"`, `online={"interactions": 20_000}`. Raises UserError for input that
    cannot be used.
    """
    from bcvlr_fast.runs.start import train_from_settings

    return train_from_settings(env, videos, out=out, quiet=quiet, minutes=minutes, **settings)


def load_policy(path: str | Path, device: str = "auto") -> Policy:
    """The policy of a run folder, or of a folder with policy.json and policy.safetensors.

    `load_policy(path).act(frames)` gives actions [B, ...] for observations [B, frame_stack * C, H, W] uint8. Raises
    UserError where there is no policy.
    """
    from bcvlr_fast.runs.results import load_policy as load

    return load(Path(path), device)
