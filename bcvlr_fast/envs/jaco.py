"""URLB's tasks of a Jaco arm that reaches for a brick (Laskin et al. 2021), built from dm_control.manipulation."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
from types import ModuleType
from typing import Any

import numpy as np

from bcvlr_fast.envs.pool import no_rendering
from bcvlr_fast.envs.simulation import ACTION_REPEAT, SIDE, Outcome
from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.system.errors import UserError

_TARGETS_M = {
    "jaco_reach_top_left": (-0.09, 0.09, 0.001),
    "jaco_reach_top_right": (0.09, 0.09, 0.001),
    "jaco_reach_bottom_left": (-0.09, -0.09, 0.001),
    "jaco_reach_bottom_right": (0.09, -0.09, 0.001),
}
"""(x, y, z) of the brick: 1 mm above the ground, on which it settles."""
_EPISODE_S = 10.0
"""125 agent steps of two simulator steps of 40 ms."""
_CAMERA = "front_close"


class JacoSimulation:
    """A `Simulation` of a Jaco task.

    dm_control's composer compiles the same model again for every episode. Here all environments share one model and
    one renderer; each has its own state and draws the random numbers that composer draws from its seed.
    """

    def __init__(self, task: str, seeds: list[int], rendering: Rendering | None) -> None:
        """Makes one environment per seed; `rendering` None gives states alone and needs no graphics.

        Raises UserError if dm_control is missing or rendering does not work.
        """
        mjcf, self._brick, self._task = _reach(_TARGETS_M[task])
        self._brick.initialize_episode_mjcf(np.random.RandomState(0))  # sets the radius of its studs, always the same
        model = self._task.root_entity.mjcf_model
        if rendering == "fast":
            _simplify(model)
        physics = mjcf.Physics.from_mjcf_model(model)
        self._physics = [physics.copy(share_model=True) for _ in seeds]
        self._random = [np.random.RandomState(seed) for seed in seeds]
        enabled = [observable for observable in self._task.observables.values() if observable.enabled]
        self._features = [[feature.observation_callable(own) for feature in enabled] for own in self._physics]
        low, high = physics.model.actuator_ctrlrange.T
        self._low, self._scale = low, (high - low) / 2
        self._substeps = self._task.physics_steps_per_control_step
        self._renderer = None if rendering is None else _Renderer(physics.model.ptr)

    def reset(self, ids: np.ndarray) -> np.ndarray:
        for env in ids:
            self._brick.initialize_episode_mjcf(self._random[env])  # draws one random number
            with self._physics[env].reset_context():
                self._task.initialize_episode(self._physics[env], self._random[env])
        return self._states(ids)

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """Steps as a `Simulation`; actions [k, 9] are velocities of joints and fingers in -1..1."""
        reward, ended = np.zeros(len(ids)), np.zeros(len(ids), bool)
        controls = self._low + self._scale * (actions.astype(np.float64) + 1)
        for row, env in enumerate(ids):
            physics = self._physics[env]
            physics.set_control(controls[row])
            for _ in range(ACTION_REPEAT):
                physics.step(self._substeps)
                reward[row] += self._task.get_reward(physics)
            ended[row] = physics.time() >= _EPISODE_S
        return self._states(ids), Outcome(reward, ended, np.zeros(len(ids), bool))

    def render(self, ids: np.ndarray) -> np.ndarray:
        assert self._renderer is not None, "these environments were made without rendering"
        frames = np.empty((len(ids), 3, SIDE, SIDE), np.uint8)
        for row, env in enumerate(ids):
            frames[row] = self._renderer.draw(self._physics[env].data.ptr)
        return frames

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()

    def _states(self, ids: np.ndarray) -> np.ndarray:
        """States [k, S] float32: the "perfect features" of dm_control.manipulation, in composer's order."""
        states = [np.concatenate([np.ravel(feature()) for feature in self._features[env]]) for env in ids]
        return np.asarray(states, np.float32)


class _Renderer:
    """Draws any state of a model from the task's camera."""

    def __init__(self, model: Any) -> None:
        self._mujoco = mujoco = importlib.import_module("mujoco")
        try:
            self._gl = importlib.import_module("mujoco.egl").GLContext(SIDE, SIDE)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # PyOpenGL raises many types, AttributeError without any EGL
            raise UserError(no_rendering(str(error))) from None
        atexit.register(self.close)  # runs before mujoco.egl's own handler, after which nothing can be freed
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, _CAMERA)
        self._options, self._perturbation = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._rectangle = mujoco.MjrRect(0, 0, SIDE, SIDE)
        self._pixels = np.empty((SIDE, SIDE, 3), np.uint8)  # bottom row first

    def draw(self, state: Any) -> np.ndarray:
        """Draws a state as [3, 64, 64] uint8, which the next call overwrites."""
        mujoco = self._mujoco
        self._gl.make_current()  # another renderer's context may be current
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, state, self._options, self._perturbation, self._camera, everything, self._scene
        )
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        return self._pixels[::-1].transpose(2, 0, 1)

    def close(self) -> None:
        atexit.unregister(self.close)
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _reach(target_m: tuple[float, float, float]) -> tuple[ModuleType, Any, Any]:
    """Makes (dm_control's module mjcf, the brick, composer's task) without touching graphics."""
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disabled"  # keeps the import from loading dm_control's renderer
    try:
        importlib.import_module("dm_control")
        mjcf = importlib.import_module("dm_control.mjcf")
        reach = importlib.import_module("dm_control.manipulation.reach")
    except ModuleNotFoundError as error:
        raise UserError(f"env: jaco needs the package '{error.name}' (extra [dmc])") from None
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before
    logging.getLogger("absl").addFilter(_is_worth_logging)
    seen = reach.observations.PERFECT_FEATURES
    prop_features = reach.observations.make_options(seen, reach.observations.FREEPROP_OBSERVABLES)
    brick = reach.props.Duplo(observable_options=prop_features)
    here = reach.workspaces.BoundingBox(target_m, target_m)
    task = reach.Reach(
        arena=reach.arenas.Standard(),
        arm=reach.robots.make_arm(obs_settings=seen),
        hand=reach.robots.make_hand(obs_settings=seen),
        prop=brick,
        obs_settings=seen,
        workspace=reach._DUPLO_WORKSPACE._replace(target_bbox=here),
        control_timestep=reach.constants.CONTROL_TIMESTEP,
    )
    return mjcf, brick, task


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Drops the message about a failed search for an initial pose: one episode in a hundred retries it elsewhere."""
    return "Failed to converge" not in str(record.msg)


def _simplify(model: Any) -> None:
    """Makes Mesa draw eight times as fast; pixels differ from stock by 0.5 of 255 on average.

    In order of effect: a coarser shadow map, fewer triangles in cylinders and the ground, no reflections in the
    ground. Disabling multisampling is faster still, but differs by 1.3 and has jagged edges.
    """
    quality = model.visual.quality
    quality.shadowsize = 256
    quality.numslices, quality.numstacks, quality.numquads = 14, 2, 1
    model.find("material", "groundplane").reflectance = 0
    buffer = getattr(model.visual, "global")
    buffer.offwidth = buffer.offheight = SIDE
