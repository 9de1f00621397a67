"""DMControl and MetaWorld through EnvPool: the physics of some environments and their pictures, in one process."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bcvlr_fast.envs.assets import asset_folder
from bcvlr_fast.envs.pool import check_order, envpool, load_egl, no_rendering
from bcvlr_fast.system.errors import UserError

ACTION_REPEAT = 2
SIDE = 64


class Outcome(NamedTuple):
    """What a step led to, for the k environments stepped."""

    reward: np.ndarray
    """[k] float64, the sum over the action's repeats."""
    ended: np.ndarray
    """[k] bool."""
    success: np.ndarray
    """[k] bool, in one of the repeats; False where the suite knows none."""


class Simulation:
    """`num_envs` environments of a task, every action repeated twice; environment n is seeded with seeds[n].

    EnvPool would repeat by more physics per step and reward the last of it alone; here it takes its own steps, and a
    picture is drawn when it is asked for, in the calling thread.
    """

    def __init__(self, suite: str, task: str, seeds: list[int], rendering: str | None) -> None:
        """`rendering` is stock or fast (see `assets`), or None for states alone, which needs no graphics."""
        options: dict[str, Any] = {"base_path": str(asset_folder(suite, task, rendering or "stock"))}
        if suite == "metaworld":
            options["partially_observable"] = False  # as the scripted experts are written for
        if rendering is not None:
            options |= {"render_mode": "rgb_array", "render_width": SIDE, "render_height": SIDE, "render_camera_id": 0}
            try:
                load_egl()
            except OSError as error:
                raise UserError(no_rendering(str(error))) from None
        self.num_envs = len(seeds)
        self._pool = envpool(suite).make_gymnasium(
            envpool_id(suite, task), num_envs=len(seeds), seed=seeds, num_threads=1, **options
        )

    def reset(self, ids: np.ndarray) -> np.ndarray:
        """Starts episodes anew: states [k, S] float32."""
        observation, info = self._pool.reset(ids)
        check_order(info["env_id"], ids)
        return _flat(observation, len(ids))

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """(states [k, S] float32, outcome) of actions [k, A] in -1..1."""
        reward, ended = np.zeros(len(ids)), np.zeros(len(ids), bool)
        success = np.zeros(len(ids), bool)
        states: np.ndarray | None = None
        actions = actions.astype(np.float64)
        for _ in range(ACTION_REPEAT):
            going = np.flatnonzero(~ended)
            if not len(going):
                break
            observation, got, terminated, truncated, info = self._pool.step(actions[going], ids[going])
            check_order(info["env_id"], ids[going])
            reward[going] += got
            ended[going] = terminated | truncated
            success[going] |= info["success"] > 0 if "success" in info else False
            flat = _flat(observation, len(going))
            states = flat if states is None else states
            states[going] = flat
        assert states is not None
        return states, Outcome(reward, ended, success)

    def render(self, ids: np.ndarray) -> np.ndarray:
        """Pictures [k, 3, 64, 64] uint8 from camera 0."""
        return np.ascontiguousarray(self._pool.render(env_ids=ids).transpose(0, 3, 1, 2))

    def close(self) -> None:
        self._pool.close()


def envpool_id(suite: str, task: str) -> str:
    """EnvPool's name of a task."""
    if suite == "metaworld":
        return f"MetaWorld/{_camel(task, '-')}-v3"
    return f"{_camel('cheetah_run' if task == 'cheetah_run_backward' else task, '_')}-v1"


def _camel(name: str, between: str) -> str:
    return "".join(part[0].upper() + part[1:] for part in name.split(between))


def _flat(observation: Any, count: int) -> np.ndarray:
    """[count, S] float32 of an observation, which is one array or several by name."""
    parts = observation.values() if isinstance(observation, dict) else [observation]
    return np.concatenate([np.asarray(part, np.float32).reshape(count, -1) for part in parts], axis=1)
