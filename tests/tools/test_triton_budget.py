"""Every Triton kernel compiles for every GPU target, within its budget."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHERS = ("80", "100", "gfx942")


@pytest.mark.parametrize("target", ["90", *[pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]])
def test_budget(target: str, pytestconfig: pytest.Config) -> None:
    """Compiles in a separate process, because Triton interprets in this one, and caches the result."""
    pytest.importorskip("triton", minversion="3.6")
    cache = pytestconfig.cache.mkdir("triton")  # Triton's keys include the source, the target and its version
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(cache)}
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
