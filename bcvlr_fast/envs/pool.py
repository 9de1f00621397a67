"""Loads EnvPool together with the system libraries that it does not find by itself."""

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


@functools.cache
def envpool(suite: str, module: str, probe: str = "") -> Any:
    """The package envpool with a suite's `module` imported.

    `probe` is an environment whose spec is made at once, for modules that load their system libraries only then.
    Raises UserError if EnvPool or a system library is missing.
    """
    qt = _load_qt()
    with contextlib.suppress(OSError):  # rendering reports a missing EGL; it must be loaded before EnvPool's own
        load_egl()
    try:
        package = importlib.import_module("envpool")
        importlib.import_module(module)
        if probe:
            _ = package.make_spec(probe)
    except ModuleNotFoundError as error:
        raise UserError(f"env: {suite} needs the package '{error.name}' (extra [{suite}])") from None
    except ImportError as error:
        if isinstance(error.__cause__, Interrupted | KeyboardInterrupt):  # a signal that pybind11 took for a failure
            raise error.__cause__ from None
        raise UserError(missing_library(suite, qt or error)) from None
    return package


def load_egl() -> None:
    """Loads the system's EGL for MuJoCo's loader; the copy in EnvPool's wheel has another name."""
    ctypes.CDLL("libEGL.so.1", mode=ctypes.RTLD_GLOBAL)


def no_rendering(why: str) -> str:
    """Error message that names the system packages that rendering needs."""
    return (
        f"env: rendering with EGL does not work here: {why} (without a GPU: apt-get install libegl1 libegl-mesa0 "
        "libgl1-mesa-dri; with an NVIDIA GPU: libegl1 and the driver's libnvidia-gl)"
    )


def missing_library(suite: str, error: Exception) -> str:
    """Error message that names the system packages with the library that `error` names."""
    return f"env: {suite} cannot load a system library: {error} (apt-get install libgl1 libglib2.0-0)"


def check_order(answered: np.ndarray, asked: np.ndarray) -> None:
    """Raises RuntimeError if EnvPool answered for other environments than it was asked for."""
    if not np.array_equal(answered, asked):
        raise RuntimeError(f"EnvPool answered for environments {answered.tolist()}, not {asked.tolist()}")


def _load_qt() -> OSError | None:
    """Loads Qt 5 from the wheel PyQt5-Qt5 for EnvPool and returns the error if that fails.

    Without the wheel EnvPool uses the system's Qt.
    """
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
