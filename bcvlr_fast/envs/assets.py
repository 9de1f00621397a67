"""The models that EnvPool's MuJoCo suites load, as they are or changed to be drawn faster."""

from __future__ import annotations

from pathlib import Path


def asset_folder(suite: str, task: str, rendering: str) -> Path:
    """EnvPool's folder of assets."""
    import envpool_assets

    return Path(envpool_assets.__file__).parent
