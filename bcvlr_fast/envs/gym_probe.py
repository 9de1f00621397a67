"""Finds an environment of Gymnasium or of the user and reads its spec, by making one and looking at its first frame."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from bcvlr_fast.envs.specs import FRAME_SHAPE, Actions, EnvSpec
from bcvlr_fast.system.errors import UserError, did_you_mean

_STEPS_PER_S = 30.0
_MAX_ENVS = 16
_IMAGE = "uint8 [H, W], [H, W, C] or [C, H, W] with C of 1 or 3"
_REGISTERED_BY = {"ALE": "ale_py"}
"""Packages to import before their ids are known, by namespace; for others the user writes package:id."""


class Probe(NamedTuple):
    """Everything that is known of an environment."""

    spec: EnvSpec
    make: Callable[[], gymnasium.Env]
    """Makes another one, in any process."""
    observed: bool
    """Whether its observations are images; otherwise it renders them."""
    image_shape: tuple[int, ...]


@functools.cache
def probe(suite: str, task: str) -> Probe:
    """Makes the environment `gym:<id>` or `factory:<module>:<function>`, reads its spec and closes it.

    Raises UserError if it does not exist, a package is missing, or its frames or actions are not supported.
    """
    name = f"{suite}:{task}"
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # as under `python -m`; workers get the same path
    try:
        return _FINDERS[suite](name, task)
    except (gymnasium.error.Error, ImportError) as error:
        where = ", neither installed nor in the current directory" if isinstance(error, ModuleNotFoundError) else ""
        raise UserError(f"env: {name}: {' '.join(str(error).split())}{where}") from None


def image_of(env: gymnasium.Env, observation: Any, observed: bool) -> Any:
    """The image of an environment's present state: its observation, or a rendering."""
    return observation if observed else env.render()


def is_image(of: Any) -> bool:
    """Whether an array, or a space of arrays, holds images of a supported shape."""
    shape = of.shape if isinstance(of, np.ndarray | Box) and of.dtype == np.uint8 else ()
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and bool({shape[2], shape[0]} & {1, 3})))


def described(value: Any) -> str:
    """A space or an array in one line."""
    text = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)
    return textwrap.shorten(text, 200)


def _probe_registered(name: str, task: str) -> Probe:
    """Probes an environment by its id, rendered if its observations are not images."""
    make = _registered(task)
    with contextlib.closing(make()) as env:
        if is_image(env.observation_space):
            return _inspected(name, env, make, observed=True)
    make = functools.partial(make, render_mode="rgb_array")
    try:
        rendering = make()
    except (TypeError, ValueError, AssertionError):  # how environments refuse a mode that they do not have
        raise _no_pixels(name, env, "no rgb_array") from None
    with contextlib.closing(rendering):
        return _inspected(name, rendering, make, observed=False)


def _probe_made(name: str, task: str) -> Probe:
    """Probes the environment that a user's function returns."""
    make = functools.partial(_from_factory, task)
    with contextlib.closing(make()) as env:
        return _inspected(name, env, make, is_image(env.observation_space))


_FINDERS = {"gym": _probe_registered, "factory": _probe_made}


def _inspected(name: str, env: gymnasium.Env, make: Callable[[], gymnasium.Env], observed: bool) -> Probe:
    actions = _actions(name, env.action_space)
    if not observed and env.render_mode == "human":
        raise _no_pixels(name, env, "render_mode human")
    observation, _ = env.reset(seed=0)
    try:
        image = image_of(env, observation, observed)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "mujoco":
            raise
        raise UserError(f"env: {name}: MuJoCo cannot render; without a display set MUJOCO_GL=egl ({error})") from None
    if not is_image(image):
        raise _no_pixels(name, env, f"a {'frame' if observed else 'rendering'} {described(image)}")
    rate = (env.metadata or {}).get("render_fps")
    steps_per_s = float(rate) if isinstance(rate, int | float | np.number) and 0 < rate < np.inf else _STEPS_PER_S
    return Probe(EnvSpec(FRAME_SHAPE, actions, steps_per_s, "return", _MAX_ENVS), make, observed, image.shape)


def _actions(name: str, space: Space) -> Actions:
    if isinstance(space, Discrete):
        return Actions(False, int(space.n), own_start=int(space.start))
    if isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        size = space.shape[0]
        if size > 0 and np.isfinite([space.low, space.high]).all():
            return Actions(True, size, tuple(map(float, space.low)), tuple(map(float, space.high)))
    expected = "Discrete actions or a Box of one dimension, of floats in finite bounds"
    raise UserError(f"env: {name}: expected {expected}, found {described(space)}")


def _no_pixels(name: str, env: gymnasium.Env, found: str) -> UserError:
    expected = f"observations or an rgb_array rendering that are {_IMAGE}"
    observations = described(env.observation_space)
    return UserError(f"env: {name}: expected {expected}, found observations {observations} and {found}")


def _registered(task: str) -> Callable[..., gymnasium.Env]:
    """Returns a function that makes the environment of an id.

    The function holds the registration found here, so that worker processes need not know the id.
    """
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
    """Calls the function `task`, which is module:function, and returns its environment."""
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
        raise UserError(f"env: {name}: expected the function to return a gymnasium.Env, found {described(env)}")
    return env


def _imported(name: str, module: str) -> types.ModuleType:
    if not all(word.isidentifier() for word in module.split(".")):
        raise UserError(f"env: {name}: expected the name of a module, such as package.module, found '{module}'")
    return importlib.import_module(module)
