"""Pools of workers."""

import subprocess
import sys
import time
from pathlib import Path

from bcvlr_fast.system.workers import worker_pool

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


def test_a_pool_with_half_written_results_ends() -> None:
    """Who reads the result of a killed worker must not wait for the rest of it."""
    for _ in range(3):
        with worker_pool(2) as pool:
            results = [pool.submit(bytes, 50_000_000) for _ in range(16)]
            results[0].result()
            time.sleep(0.2)
