"""Pools of workers."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
from bcvlr_fast.system.workers import worker_pool

with worker_pool(2) as pool:
    print(list(pool.map(abs, [-1, 2, -3])))
"""


def test_a_script_without_a_main_guard_may_use_workers(tmp_path: Path) -> None:
    """A worker that imported the script again would start workers itself."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[1, 2, 3]\n"), done.stderr
