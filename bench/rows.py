"""Result rows: kept while benchmarks run, written to results/ with the machine, those of the same key replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bcvlr_fast.system.host import machine

RESULTS = Path(__file__).parents[1] / "results"
Row = dict[str, Any]
reported: dict[str, list[Row]] = {}
"""Rows of this session by the name of their file in results/."""


def report(name: str, row: Row) -> None:
    """Keeps a row for results/<name>.jsonl."""
    reported.setdefault(name, []).append(row)


def write(path: Path, rows: list[Row], key: Callable[[Row], object], device: torch.device) -> None:
    """Adds the rows, measured on `device`, to the file, in place of those with the same key on the same machine."""
    where = machine()
    if device.type == "cpu":
        where["gpu"] = None

    def full_key(row: Row) -> object:
        return key(row), row["machine"]["gpu"] or row["machine"]["cpu"]

    rows = [{**row, "machine": where} for row in rows]
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    new = {full_key(row) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [*(row for row in kept if full_key(row) not in new), *rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
