"""EnvPool, with the system's libraries that it does not find by itself."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.system.errors import Interrupted, UserError

_QT_LIBRARIES = ("libicudata.so.56", "libicuuc.so.56", "libicui18n.so.56", "libQt5Core.so.5", "libQt5Gui.so.5")
_MODULES = {"procgen": "envpool.procgen", "dmc": "envpool.mujoco.dmc", "metaworld": "envpool.mujoco.metaworld"}


@functools.cache
def envpool(suite: str) -> Any:
    """The package, ready for a suite. Raises UserError where it, or a library of the system, is missing."""
    qt = _load_qt()
    with contextlib.suppress(OSError):  # who draws finds out; EGL must be there before EnvPool brings its own
        load_egl()
    try:
        package = importlib.import_module("envpool")
        importlib.import_module(_MODULES[suite])
        if suite == "procgen":
            _ = package.make_spec("CoinrunEasy-v0")
    except ModuleNotFoundError as error:
        raise UserError(f"env: {suite} needs the package '{error.name}' (extra [{suite}])") from None
    except ImportError as error:
        if isinstance(error.__cause__, Interrupted | KeyboardInterrupt):  # a signal, which pybind11 took for a failure
            raise error.__cause__ from None
        raise UserError(missing_library(suite, qt or error)) from None
    return package


def load_egl() -> None:
    """Loads the system's EGL, which MuJoCo's loader sees; that of EnvPool's wheel has a name of its own."""
    ctypes.CDLL("libEGL.so.1", mode=ctypes.RTLD_GLOBAL)


def no_rendering(why: str) -> str:
    """The one line that says which system packages bring what rendering needs."""
    return (
        f"env: rendering with EGL does not work here: {why} (without a GPU: apt-get install libegl1 libegl-mesa0 "
        "libgl1-mesa-dri; with NVIDIA's: libegl1 and the driver's libnvidia-gl)"
    )


def missing_library(suite: str, error: Exception) -> str:
    """The one line that says which system package brings the library that `error` names."""
    return f"env: {suite} cannot load a system library: {error} (apt-get install libgl1 libglib2.0-0)"


def check_order(answered: np.ndarray, asked: np.ndarray) -> None:
    """Raises RuntimeError where EnvPool answered for other environments than it was asked for."""
    if not np.array_equal(answered, asked):
        raise RuntimeError(f"EnvPool answered for environments {answered.tolist()}, not {asked.tolist()}")


def _load_qt() -> OSError | None:
    """Loads Qt 5 from the PyQt5-Qt5 wheel for EnvPool to find; without the wheel the system's is used. Returns what
    kept it from loading, if anything did."""
    package = importlib.util.find_spec("PyQt5")
    if package is None or not package.submodule_search_locations:
        return None
    for location in package.submodule_search_locations:
        folder = Path(location) / "Qt5" / "lib"
        if not folder.is_dir():
            continue
        try:
            for library in _QT_LIBRARIES:
                ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return error
        return None
    return None
