"""The machine that a process may use: its cores, its hardware, and what is installed."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import bcvlr_fast

DRAWN_BY = ("envpool", "envpool_assets", "mujoco", "dm_control", "metaworld")
"""The packages that the pictures of MuJoCo's environments, and their experts' actions, depend on."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Hardware and versions, for the record of a run."""
    import torch  # here, for those who ask for versions alone are to start quickly

    model = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="ignore") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **versions(),
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def versions() -> dict[str, str | None]:
    """Versions of what a run's numbers depend on; None for what is not installed."""
    return {"bcvlr_fast": bcvlr_fast.__version__, **installed("torch", "numpy", *DRAWN_BY)}


def installed(*packages: str) -> dict[str, str | None]:
    """Versions by package; None for what is not installed."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _commit() -> str | None:
    """The commit of the clone that the package is used from, with -dirty where the package was changed; None outside
    one."""
    package = Path(bcvlr_fast.__file__).parent
    if not (package.parent / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
