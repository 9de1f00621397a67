"""Prints result rows as the Markdown tables of docs/.

python tools/result_tables.py results/kernels.jsonl    # docs/kernels.md; or updates.jsonl, docs/updates.md
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def kernels(rows: list[Row]) -> None:
    """Prints one row for each operation, case and peer."""
    print("| operation | case | peer | threads | peer ms | ours ms | ratio |\n|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["operation"], row["case"])):
        low, high = row["ratio_quartiles"]
        print(
            f"| {row['operation']} | {row['case']} | {row['peer']} | {row['threads']} | {row['peer_ms']:.3g} "
            f"| {row['ours_ms']:.3g} | {row['ratio']:.3g} ({low:.3g} .. {high:.3g}) |"
        )


def updates(rows: list[Row]) -> None:
    """Prints a table for each environment, scale and precision: milliseconds of each side, ratios in parentheses."""
    for kind in dict.fromkeys((row["env"], row["scale"], row["precision"]) for row in rows):
        group = [row for row in rows if (row["env"], row["scale"], row["precision"]) == kind]
        env, scale, precision = kind
        sides = list(dict.fromkeys(side for row in group for side in row["update_ms"]))
        print(f"{env}, scale `{scale}`, ours in {precision}, {group[0]['threads']} threads:\n")
        print(f"| phase | {' | '.join(sides)} |\n|---{'|---' * len(sides)}|")
        for row in group:
            print(f"| {row['phase']} | {' | '.join(_side(row, side) for side in sides)} |")
        means = [_mean([row["ratio"][side] for row in group if side in row["ratio"]]) for side in sides]
        print(f"| geometric mean | {' | '.join(means)} |\n")


def _side(row: Row, side: str) -> str:
    if side not in row["update_ms"]:
        return ""
    ratio = f" ({row['ratio'][side]:.2f}x)" if side in row["ratio"] else ""
    ms = row["update_ms"][side]
    return (f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}") + ratio


def _mean(ratios: list[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f}x" if ratios else ""


def main() -> None:
    """Prints a heading and a table for each machine."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "results/kernels.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for machine in dict.fromkeys(row["machine"]["gpu"] or row["machine"]["cpu"] for row in rows):
        here = [row for row in rows if (row["machine"]["gpu"] or row["machine"]["cpu"]) == machine]
        print(f"\n{machine}, torch {here[0]['machine']['torch']}, {here[0]['machine']['date']}:\n")
        {"kernels": kernels, "updates": updates}[path.stem](here)


if __name__ == "__main__":
    main()
