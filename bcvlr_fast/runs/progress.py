"""Counts and times of a run. The position within a phase belongs to the phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """Counts and times of a run, across all resumptions."""

    updates: int = 0
    """Updates of all learners; the x-axis of the log."""
    spent: dict[str, dict[str, float]] = field(default_factory=dict)
    """Seconds and counts by part, as in `TimeSpent`."""
    peaks: dict[str, float] = field(default_factory=dict)
    """Peak memory in GB, by kind."""
    placement: str | None = None
    """Placement of the video frames, as in `FrameStore`."""
    elapsed_s: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
