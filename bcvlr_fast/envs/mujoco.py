"""Physics and frames of MuJoCo environments through EnvPool, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.envs.pool import check_order, envpool, load_egl, no_rendering
from bcvlr_fast.envs.simulation import ACTION_REPEAT, SIDE, Outcome
from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.system.errors import UserError


class EnvPoolSimulation:
    """A `Simulation` of an EnvPool task; every action is repeated twice.

    EnvPool's own action repeat lengthens the physics step and rewards only its end. Here each repeat is one of its
    steps, and a frame is drawn on request, in the calling thread.
    """

    def __init__(
        self,
        suite: str,
        module: str,
        envpool_id: str,
        assets: Path,
        seeds: list[int],
        rendering: Rendering | None,
        **options: Any,
    ) -> None:
        """Makes one environment per seed with models from the folder `assets`.

        `rendering` None gives states alone and needs no graphics. Raises UserError if `module` of EnvPool or EGL is
        missing.
        """
        options["base_path"] = str(assets)
        if rendering is not None:
            options |= {"render_mode": "rgb_array", "render_width": SIDE, "render_height": SIDE, "render_camera_id": 0}
            try:
                load_egl()
            except OSError as error:
                raise UserError(no_rendering(str(error))) from None
        self._pool = envpool(suite, module).make_gymnasium(
            envpool_id, num_envs=len(seeds), seed=seeds, num_threads=1, **options
        )

    def reset(self, ids: np.ndarray) -> np.ndarray:
        observation, info = self._pool.reset(ids)
        check_order(info["env_id"], ids)
        return _flat(observation, len(ids))

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, Outcome]:
        reward, ended = np.zeros(len(ids)), np.zeros(len(ids), bool)
        success = np.zeros(len(ids), bool)
        states: np.ndarray | None = None
        actions = actions.astype(np.float64)
        for _ in range(ACTION_REPEAT):
            running = np.flatnonzero(~ended)
            if not len(running):
                break
            observation, got, terminated, truncated, info = self._pool.step(actions[running], ids[running])
            check_order(info["env_id"], ids[running])
            reward[running] += got
            ended[running] = terminated | truncated
            success[running] |= info["success"] > 0 if "success" in info else False
            flat = _flat(observation, len(running))
            states = flat if states is None else states
            states[running] = flat
        assert states is not None
        return states, Outcome(reward, ended, success)

    def render(self, ids: np.ndarray) -> np.ndarray:
        """Draws frames [k, 3, 64, 64] uint8 from camera 0."""
        return np.ascontiguousarray(self._pool.render(env_ids=ids).transpose(0, 3, 1, 2))

    def close(self) -> None:
        self._pool.close()


def _flat(observation: Any, count: int) -> np.ndarray:
    """[count, S] float32 of an observation, which is one array or several by name."""
    parts = observation.values() if isinstance(observation, dict) else [observation]
    return np.concatenate([np.asarray(part, np.float32).reshape(count, -1) for part in parts], axis=1)
