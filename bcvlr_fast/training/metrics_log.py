"""metrics.jsonl: one JSON object a line, and TensorBoard on request."""

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
    """Appends rows {phase, step, time_s, ...} to the run's metrics file.

    `start` is when the run's clock began (time.monotonic). A resumed run keeps the first `keep_bytes`
    of its file, so that what it does again is not told twice.
    """

    def __init__(self, folder: Path, track: str, start: float, keep_bytes: int | None = None) -> None:
        self._file = (folder / METRICS).open("ab")
        if keep_bytes is not None and self._file.tell() > keep_bytes:
            self._file.truncate(keep_bytes)
            self._file.seek(keep_bytes)
        self._start = start
        self._board = _tensorboard(folder) if track == "tensorboard" else None

    def write(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Numbers or text of one moment; not-a-number is written as null.

        `step` counts interactions in rows of a round and updates in all others. TensorBoard's tags are
        phase/stage/key, so that each chart has one of the two for its axis.
        """
        row = {"phase": phase, "step": step, "time_s": round(time.monotonic() - self._start, 3)}
        row.update((k, None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in values.items())
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        if self._board:
            stage = values.get("stage", "")
            for key, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{phase}/{stage}/{key}", value, step)

    def size_bytes(self) -> int:
        """Length of the file so far."""
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics file; a torn last line is left out."""
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
