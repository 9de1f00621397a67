"""Prints the table of docs/kernels.md from the rows that `pytest bench/` has written.

python tools/kernel_table.py [results/kernels.jsonl]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """A line for each operation, case and peer."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "results/kernels.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for machine in dict.fromkeys(row["machine"]["gpu"] or row["machine"]["cpu"] for row in rows):
        here = [row for row in rows if (row["machine"]["gpu"] or row["machine"]["cpu"]) == machine]
        print(f"\n{machine}, torch {here[0]['machine']['torch']}, {here[0]['machine']['date']}:\n")
        print("| operation | case | peer | threads | peer ms | ours ms | ratio |\n|---|---|---|---|---|---|---|")
        for row in sorted(here, key=lambda row: (row["operation"], row["case"])):
            low, high = row["ratio_quartiles"]
            print(
                f"| {row['operation']} | {row['case']} | {row['peer']} | {row['threads']} | {row['peer_ms']:.3g} "
                f"| {row['ours_ms']:.3g} | {row['ratio']:.3g} ({low:.3g} .. {high:.3g}) |"
            )


if __name__ == "__main__":
    main()
