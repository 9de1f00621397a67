"""Any environment of Gymnasium that has pixels: by its id, or made by a function of the user's."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import multiprocessing.connection
import os
import random
import sys
import textwrap
import traceback
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bcvlr_fast.envs import Episode, Step
from bcvlr_fast.envs.episodes import Episodes
from bcvlr_fast.envs.specs import FRAME_SHAPE, Actions, EnvSpec, env_seeds
from bcvlr_fast.kernels.resize_area import resize_area
from bcvlr_fast.system.errors import UserError, did_you_mean
from bcvlr_fast.system.workers import begin_worker, without_main

try:
    import gymnasium
    from gymnasium.spaces import Box, Discrete, Space
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode
except ModuleNotFoundError as missing:
    raise UserError(f"env: gym and factory need the package '{missing.name}' (pip install gymnasium)") from None

_STEPS_PER_S = 30.0
_MOST_ENVS = 16
_CLOSE_S = 5
_PICTURE = "uint8 [H, W], [H, W, C] or [C, H, W] with C of 1 or 3"
_REGISTERED_BY = {"ALE": "ale_py"}
"""Packages that must be imported for their ids to be known, by namespace; of others the user says package:id."""


class _Known(NamedTuple):
    """What there is to know of an environment."""

    spec: EnvSpec
    make: Callable[[], gymnasium.Env]
    """Makes another one, in any process."""
    observed: bool
    """Its observations are pictures; otherwise it draws them."""
    picture_shape: tuple[int, ...]


def spec_of(suite: str, task: str) -> EnvSpec:
    """What the environment `gym:<id>` or `factory:<module>:<function>` shows and takes: it is made, asked and closed.

    Raises UserError where there is none, a package is missing, or it has no pixels or other actions than it may.
    """
    return _ask(suite, task).spec


class GymEnv:
    """A `PixelEnv` of one of Gymnasium's environments or of the user's: each in a process of its own."""

    def __init__(self, suite: str, task: str, num_envs: int, seed: int) -> None:
        self._name = f"{suite}:{task}"
        known = _ask(suite, task)
        self.num_envs, self.spec = num_envs, known.spec
        one = functools.partial(_Pictures, known)
        try:
            with without_main():
                self._vector = AsyncVectorEnv(
                    [one] * num_envs, copy=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED
                )
        except (EOFError, OSError):
            raise RuntimeError(f"env: {self._name}: a process of its environments ended at once") from None
        weakref.finalize(self, _close, self._vector)  # at this process's exit too
        self._seeds: list[int | None] = [*env_seeds(seed, num_envs)]
        self._episodes = Episodes(num_envs)

    def reset(self) -> np.ndarray:
        self._episodes.restart()
        frames = self._start(np.arange(self.num_envs), self._seeds)
        self._seeds = [None] * self.num_envs  # from here on each goes on with its own randomness
        return frames

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        envs = np.arange(self.num_envs) if envs is None else np.asarray(envs, np.int64)
        actions = self.spec.actions.check(actions, len(envs))
        asked = np.zeros((self.num_envs, *_action_space(self.spec.actions).shape))
        asked[envs, 0] = 1
        asked[envs, 1:] = actions.reshape(len(envs), -1)
        pictures, rewards, terminated, truncated, _ = self._call("step", asked)
        frames, ended = _frames(pictures[envs]), (terminated | truncated)[envs]
        self._episodes.add(envs, ended, rewards[envs])
        over = envs[ended]
        first_frames = self._start(over) if len(over) else np.empty((0, *FRAME_SHAPE), np.uint8)
        return Step(frames, ended, first_frames)

    def pop_episodes(self) -> list[Episode]:
        return self._episodes.pop()

    def close(self) -> None:
        _close(self._vector)

    def _start(self, envs: np.ndarray, seeds: list[int | None] | None = None) -> np.ndarray:
        """First frames [k, 3, 64, 64] of new episodes in the environments `envs`."""
        mask = np.isin(np.arange(self.num_envs), envs)
        pictures, _ = self._call("reset", seed=seeds, options={"reset_mask": mask})
        return _frames(pictures[envs])

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Calls a method of the vectorised environment. Raises RuntimeError, and ends all, where one fails or dies."""
        try:
            answer = getattr(self._vector, method)(*arguments, **named)
        except (EOFError, OSError):
            how = self._how_it_ended()
            _kill(self._vector)
            raise RuntimeError(f"env: {self._name}: {how}") from None
        except BaseException:  # a signal, most likely, after which no answer can be told from another
            _kill(self._vector)
            raise
        failures = answer[-1].get("failure", ())
        for env, failure in enumerate(failures):
            if failure:
                _kill(self._vector)
                raise RuntimeError(f"env: {self._name}: environment {env} failed in {method}\n\n{failure}")
        return answer

    def _how_it_ended(self) -> str:
        """Which process ended, and with what code."""
        by_sentinel = {process.sentinel: (env, process) for env, process in enumerate(self._vector.processes)}
        said = []
        for sentinel in multiprocessing.connection.wait(list(by_sentinel), timeout=_CLOSE_S):
            env, process = by_sentinel[sentinel]  # type: ignore[index]
            process.join()
            said.append(f"the process of environment {env} ended with code {process.exitcode}")
        return ", ".join(said) or "a process of its environments ended"


def _close(vector: AsyncVectorEnv) -> None:
    try:
        vector.close(timeout=_CLOSE_S)
    except (EOFError, OSError):
        _kill(vector)


def _kill(vector: AsyncVectorEnv) -> None:
    for process in vector.processes:
        process.kill()
    for process in vector.processes:
        process.join()
    vector.closed = True


class _Pictures(gymnasium.Env[np.ndarray, np.ndarray]):
    """One environment that shows its pictures, stepped only where the first number of an action is 1.

    Gymnasium makes one more in the owner's process to see its spaces, so the environment itself is made at the first
    reset. A failure travels as text, `failure` in the info: the exception itself need not be fit to travel. Resizing is
    left to the owner, as numba would take each process half a second to import.
    """

    def __init__(self, known: _Known) -> None:
        self.observation_space = Box(0, 255, known.picture_shape, np.uint8)
        self.action_space = _action_space(known.spec.actions)
        self._known = known
        self._env: gymnasium.Env | None = None
        self._picture = np.zeros(known.picture_shape, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        try:
            if self._env is None:
                self._env = self._begin(seed)
            observation, _ = self._env.reset(seed=seed, options=options or None)
            self._picture = self._seen(self._env, observation)
        except Exception:
            return self._picture, {"failure": traceback.format_exc()}
        return self._picture, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not action[0]:
            return self._picture, 0.0, False, False, {}
        try:
            assert self._env is not None, "step before reset"
            own = _own_action(self._env.action_space, action[1:])
            observation, reward, terminated, truncated, _ = self._env.step(own)
            self._picture = self._seen(self._env, observation)
            return self._picture, float(reward), bool(terminated), bool(truncated), {}
        except Exception:
            return self._picture, 0.0, False, False, {"failure": traceback.format_exc()}

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _begin(self, seed: int | None) -> gymnasium.Env:
        begin_worker()
        gymnasium.logger.min_level = gymnasium.logger.ERROR  # the owner has shown the warnings
        random.seed(seed)  # environments that do not use the randomness that they are given
        np.random.seed(seed)
        return self._known.make()

    def _seen(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        picture = _picture(env, observation, self._known.observed)
        if not _is_picture(picture) or picture.shape != self._known.picture_shape:
            raise ValueError(f"expected uint8 {list(self._known.picture_shape)} as at first, got {_told(picture)}")
        return picture


def _action_space(actions: Actions) -> Box:
    """(whether to step, the action) as numbers."""
    return Box(-np.inf, np.inf, (1 + (actions.size if actions.continuous else 1),), np.float64)


def _own_action(space: Space, action: np.ndarray) -> Any:
    """The environment's own action for `action`: [1], the index of a discrete one, or [k] in -1..1."""
    if isinstance(space, Discrete):
        return space.start + int(action[0])
    assert isinstance(space, Box)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return np.clip(low + (action + 1) / 2 * (high - low), low, high).astype(space.dtype)


def _picture(env: gymnasium.Env, observation: Any, observed: bool) -> Any:
    return observation if observed else env.render()


def _frames(pictures: np.ndarray) -> np.ndarray:
    """[k, 3, 64, 64] uint8 of pictures [k, H, W], [k, H, W, C] or [k, C, H, W] uint8, C of 1 or 3, by area."""
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    elif pictures.shape[3] not in (1, 3):
        pictures = pictures.transpose(0, 2, 3, 1)
    small = resize_area(pictures, *FRAME_SHAPE[1:]).transpose(0, 3, 1, 2)
    return np.repeat(small, 3 // small.shape[1], axis=1)


def _is_picture(of: Any) -> bool:
    """Whether an array, or a space of arrays, is of pictures that `_frames` takes."""
    shape = of.shape if isinstance(of, np.ndarray | Box) and of.dtype == np.uint8 else ()
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and bool({shape[2], shape[0]} & {1, 3})))


def _told(value: Any) -> str:
    """A space or an array in a line."""
    told = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)
    return textwrap.shorten(told, 200)


@functools.cache
def _ask(suite: str, task: str) -> _Known:
    """Makes the environment, looks at it and at its first frame, and closes it."""
    name = f"{suite}:{task}"
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # as under `python -m`; workers are given the same path
    try:
        make = functools.partial(_from_factory, task) if suite == "factory" else _registered(task)
        with contextlib.closing(make()) as env:
            observed = _is_picture(env.observation_space)
            if observed or suite == "factory":
                return _look(name, env, make, observed)
        make = functools.partial(make, render_mode="rgb_array")
        try:
            drawing = make()
        except (TypeError, ValueError, AssertionError):  # what environments say to a mode that they do not have
            raise _no_pixels(name, env, "no rgb_array") from None
        with contextlib.closing(drawing):
            return _look(name, drawing, make, observed)
    except (gymnasium.error.Error, ImportError) as error:
        where = ", neither installed nor in the current directory" if isinstance(error, ModuleNotFoundError) else ""
        raise UserError(f"env: {name}: {' '.join(str(error).split())}{where}") from None


def _look(name: str, env: gymnasium.Env, make: Callable[[], gymnasium.Env], observed: bool) -> _Known:
    actions = _actions(name, env.action_space)
    if not observed and env.render_mode == "human":
        raise _no_pixels(name, env, "render_mode human")
    observation, _ = env.reset(seed=0)
    try:
        picture = _picture(env, observation, observed)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "mujoco":
            raise
        raise UserError(f"env: {name}: MuJoCo does not draw, without a display try MUJOCO_GL=egl ({error})") from None
    if not _is_picture(picture):
        raise _no_pixels(name, env, f"{'a frame' if observed else 'a drawing'} {_told(picture)}")
    rate = (env.metadata or {}).get("render_fps")
    steps_per_s = float(rate) if isinstance(rate, int | float | np.number) and 0 < rate < np.inf else _STEPS_PER_S
    return _Known(EnvSpec(FRAME_SHAPE, actions, steps_per_s, "return", _MOST_ENVS), make, observed, picture.shape)


def _actions(name: str, space: Space) -> Actions:
    if isinstance(space, Discrete):
        return Actions(False, int(space.n), own_start=int(space.start))
    if isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        size = space.shape[0]
        if size > 0 and np.isfinite([space.low, space.high]).all():
            return Actions(True, size, tuple(map(float, space.low)), tuple(map(float, space.high)))
    expected = "Discrete actions or a Box of one dimension, of floats in finite bounds"
    raise UserError(f"env: {name}: expected {expected}, found {_told(space)}")


def _no_pixels(name: str, env: gymnasium.Env, found: str) -> UserError:
    expected = f"observations or an rgb_array rendering that are {_PICTURE}"
    return UserError(f"env: {name}: expected {expected}, found observations {_told(env.observation_space)} and {found}")


def _registered(task: str) -> Callable[..., gymnasium.Env]:
    """What makes the environment of an id; it holds what was registered here, so that workers need not know the id."""
    package, _, identity = task.rpartition(":")
    package = package or _REGISTERED_BY.get(identity.partition("/")[0], "")
    if package:
        _imported(f"gym:{task}", package)
    try:
        registered = gymnasium.spec(identity)
    except gymnasium.error.Error as error:
        hint = did_you_mean(identity, tuple(gymnasium.registry)) if type(error) is gymnasium.error.Error else ""
        if isinstance(error, gymnasium.error.NameNotFound | gymnasium.error.NamespaceNotFound) and not package:
            hint = " (package:id imports the package that registers it)"
        raise UserError(f"env: gym:{task}: {error}{hint}") from None
    return functools.partial(gymnasium.make, registered, disable_env_checker=True)


def _from_factory(task: str) -> gymnasium.Env:
    """What the function `task`, module:function, returns."""
    name = f"factory:{task}"
    module_name, _, function_name = task.partition(":")
    module = _imported(name, module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        known = tuple(word for word, value in vars(module).items() if callable(value))
        raise UserError(f"env: {name}: {module_name} has no such function{did_you_mean(function_name, known)}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UserError(f"env: {name}: expected a function that is called without arguments: {error}") from None
    env = function()
    if not isinstance(env, gymnasium.Env):
        raise UserError(f"env: {name}: expected a gymnasium.Env to be returned, found {_told(env)}")
    return env


def _imported(name: str, module: str) -> types.ModuleType:
    if not all(word.isidentifier() for word in module.split(".")):
        raise UserError(f"env: {name}: expected the name of a module, such as package.module, found '{module}'")
    return importlib.import_module(module)
