"""Every Triton kernel compiles for every GPU target, within its budget."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", ["80", "90", "100", "gfx942"])
def test_budget(target: str, tmp_path: Path) -> None:
    """In a process of its own: here Triton interprets."""
    pytest.importorskip("triton", minversion="3.6")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "tools/triton_budget.py", "--targets", target],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()[1:]
    assert len(lines) == 17
    assert all(line.startswith(target) and " spills 0 " in line for line in lines), done.stdout
