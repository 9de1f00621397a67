"""metrics.jsonl: one JSON object per line, and TensorBoard on request."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcvlr_fast.system.errors import UserError

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends rows {phase, step, time_s, ...} to the metrics file of a folder.

    `start` is when the run's clock began (time.monotonic). Its state is the length of the file: a resumed run cuts off
    the rows that it will log again.
    """

    def __init__(self, folder: Path, track: str, start: float) -> None:
        self._file = (folder / METRICS).open("ab")
        self.start = start
        self._board = _tensorboard(folder) if track == "tensorboard" else None

    def state_dict(self) -> dict[str, int]:
        return {"bytes": self._file.tell()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        if self._file.tell() > state["bytes"]:
            self._file.truncate(state["bytes"])
            self._file.seek(state["bytes"])

    def write(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Logs numbers or text; NaN and infinity become null.

        `step` counts interactions in rows of a round and updates in all others. TensorBoard tags are
        phase/stage/key, so that every chart has one of the two on its axis.
        """
        row = {"phase": phase, "step": step, "time_s": round(time.monotonic() - self.start, 3)}
        row.update((k, None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in values.items())
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        if self._board:
            stage = values.get("stage", "")
            for key, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{phase}/{stage}/{key}", value, step)

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All rows of a folder's metrics file; an incomplete last line is skipped."""
    file = folder / METRICS
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def check_tracker(track: str) -> None:
    """Raises UserError where the package that `track` needs is missing."""
    if track == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise UserError("track: tensorboard is not installed (pip install tensorboard)")


def _tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
