"""Result rows: collected while benchmarks run, and written to results/ with the machine."""

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
"""Rows of this session, by file name in results/."""


def report(name: str, row: Row) -> None:
    """Collects a row for results/<name>.jsonl."""
    reported.setdefault(name, []).append(row)


def write(path: Path, rows: list[Row], key: Callable[[Row], object], device: torch.device) -> None:
    """Adds rows measured on `device` to a file; they replace rows of the same key and machine."""
    where = machine()
    if device.type == "cpu":
        where["gpu"] = None

    def full_key(row: Row) -> object:
        return key(row), row["machine"]["gpu"] or row["machine"]["cpu"]

    rows = [{**row, "machine": where} for row in rows]
    old_rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    new = {full_key(row) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [*(row for row in old_rows if full_key(row) not in new), *rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
