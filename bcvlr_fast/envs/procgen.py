"""Procgen's 16 games (easy) through EnvPool."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.envs import Episode, Step, spec
from bcvlr_fast.envs.mujoco import check_order
from bcvlr_fast.errors import UserError

NUM_ACTIONS = 15
FRAME_SHAPE = (3, 64, 64)
_QT_LIBRARIES = ("libicudata.so.56", "libicuuc.so.56", "libicui18n.so.56", "libQt5Core.so.5", "libQt5Gui.so.5")


class Procgen:
    """EnvPool's Procgen with the semantics of `PixelEnv`.

    EnvPool would spend a step on each reset and return a pseudo-transition for it; here an ended
    environment is reset by a call of its own, so that every step is an interaction.
    """

    def __init__(self, game: str, num_envs: int, seed: int, level: int | None = None) -> None:
        self.num_envs, self.spec = num_envs, spec(f"procgen:{game}")
        levels = {} if level is None else {"num_levels": 1, "start_level": level}
        self._pool = _envpool().make_gymnasium(f"{game.capitalize()}Easy-v0", num_envs=num_envs, seed=seed, **levels)
        self._all = np.arange(num_envs, dtype=np.int32)
        self.last_reward = np.zeros(num_envs)
        """[num_envs] of the newest step: for experts, who learn from it; nothing that learns from videos has it."""
        self._return = np.zeros(num_envs)
        self._length = np.zeros(num_envs, np.int64)
        self._episodes: list[Episode] = []

    def reset(self) -> np.ndarray:
        self._episodes.clear()
        return self._start(self._all)

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        ids = self._all if envs is None else np.asarray(envs, np.int32)
        frames, reward, terminated, truncated, info = self._pool.step(self._actions(actions, len(ids)), ids)
        check_order(info["env_id"], ids)
        ended = terminated | truncated
        self.last_reward[ids] = reward
        self._return[ids] += reward
        self._length[ids] += 1
        for row in np.flatnonzero(ended):
            env = int(ids[row])
            self._episodes.append(Episode(env, float(self._return[env]), int(self._length[env])))
        first = self._start(ids[ended]) if ended.any() else np.empty((0, *FRAME_SHAPE), np.uint8)
        return Step(frames, ended, first)

    def pop_episodes(self) -> list[Episode]:
        episodes, self._episodes = self._episodes, []
        return episodes

    def close(self) -> None:
        self._pool.close()

    def _start(self, ids: np.ndarray) -> np.ndarray:
        frames, info = self._pool.reset(ids)
        check_order(info["env_id"], ids)
        self._return[ids] = 0
        self._length[ids] = 0
        return np.asarray(frames)

    def _actions(self, actions: np.ndarray, count: int) -> np.ndarray:
        return self.spec.actions.check(actions, count).astype(np.int32)


@functools.cache
def _envpool() -> Any:
    _load_qt()
    try:
        import envpool
        import envpool.procgen
    except ModuleNotFoundError as error:
        raise UserError(f"env: procgen needs the package '{error.name}' (extra [procgen])") from None
    except ImportError as error:
        raise UserError(missing_library(error)) from None
    return envpool


def _load_qt() -> None:
    """Loads Qt 5 from the PyQt5-Qt5 wheel for EnvPool to find; without the wheel the system's is used."""
    package = importlib.util.find_spec("PyQt5")
    if package is None or not package.submodule_search_locations:
        return
    for location in package.submodule_search_locations:
        folder = Path(location) / "Qt5" / "lib"
        if not folder.is_dir():
            continue
        try:
            for library in _QT_LIBRARIES:
                ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise UserError(missing_library(error)) from None
        return


def missing_library(error: Exception) -> str:
    """The one line that says which system package brings the library that `error` names."""
    return f"env: procgen cannot load a system library: {error} (apt-get install libgl1 libglib2.0-0)"
