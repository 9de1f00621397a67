"""The machine: usable cores, hardware and installed versions."""

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
"""Packages that the frames of MuJoCo environments and the actions of their experts depend on."""


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Hardware, versions, commit and date, as stored with every run."""
    import torch  # imported here so that `versions` stays fast

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
    """Versions of the packages that the results of a run depend on; None if not installed."""
    return {"bcvlr_fast": bcvlr_fast.__version__, **installed("torch", "numpy", *DRAWN_BY)}


def installed(*packages: str) -> dict[str, str | None]:
    """Versions by package; None if not installed."""
    versions_of: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions_of[package] = importlib.metadata.version(package)
    return versions_of


def _commit() -> str | None:
    """Commit of the clone that contains the package, with -dirty if the package was modified; None outside a clone."""
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
