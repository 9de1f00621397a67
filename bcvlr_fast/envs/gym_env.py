"""A `PixelEnv` of Gymnasium's environments, each in a process of its own."""

from __future__ import annotations

import functools
import multiprocessing.connection
import random
import traceback
import weakref
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from bcvlr_fast.envs.episodes import Episode, Episodes
from bcvlr_fast.envs.gym_probe import Probe, described, image_of, is_image, probe
from bcvlr_fast.envs.interface import Step
from bcvlr_fast.envs.specs import FRAME_SHAPE, Actions, env_seeds
from bcvlr_fast.kernels.resize_area import resize_area
from bcvlr_fast.system.workers import begin_worker, without_main

_CLOSE_S = 5


class GymEnv:
    """A `PixelEnv` of one of Gymnasium's environments or of the user's."""

    def __init__(self, suite: str, task: str, num_envs: int, seed: int) -> None:
        """Starts `num_envs` processes. Raises UserError if the environment cannot be used, as `probe` does."""
        self._name = f"{suite}:{task}"
        known = probe(suite, task)
        self.num_envs, self.spec = num_envs, known.spec
        one = functools.partial(_ImageEnv, known)
        try:
            with without_main():
                self._vector = AsyncVectorEnv(
                    [one] * num_envs, copy=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED
                )
        except (EOFError, OSError):
            raise RuntimeError(f"env: {self._name}: a process of its environments ended at once") from None
        weakref.finalize(self, _close, self._vector)  # also when this process exits
        self._seeds: list[int | None] = [*env_seeds(seed, num_envs)]
        self.last_reward = np.zeros(num_envs)
        self._episodes = Episodes(num_envs)

    def reset(self) -> np.ndarray:
        self._episodes.restart()
        frames = self._start(np.arange(self.num_envs), self._seeds)
        self._seeds = [None] * self.num_envs  # later resets continue with each environment's own randomness
        return frames

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        envs = np.arange(self.num_envs) if envs is None else np.asarray(envs, np.int64)
        actions = self.spec.actions.check(actions, len(envs))
        asked = np.zeros((self.num_envs, *_action_space(self.spec.actions).shape))
        asked[envs, 0] = 1
        asked[envs, 1:] = actions.reshape(len(envs), -1)
        images, rewards, terminated, truncated, _ = self._call("step", asked)
        frames, ended = _frames(images[envs]), (terminated | truncated)[envs]
        self.last_reward[envs] = rewards[envs]
        self._episodes.add(envs, ended, rewards[envs])
        over = envs[ended]
        first_frames = self._start(over) if len(over) else np.empty((0, *FRAME_SHAPE), np.uint8)
        return Step(frames, ended, first_frames)

    def pop_episodes(self) -> list[Episode]:
        return self._episodes.pop()

    def close(self) -> None:
        _close(self._vector)

    def _start(self, envs: np.ndarray, seeds: list[int | None] | None = None) -> np.ndarray:
        """Starts new episodes in the environments `envs` [k] and returns frames [k, 3, 64, 64] uint8."""
        mask = np.isin(np.arange(self.num_envs), envs)
        images, _ = self._call("reset", seed=seeds, options={"reset_mask": mask})
        return _frames(images[envs])

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Calls a method of the vector environment.

        Raises RuntimeError, and ends all processes, if an environment fails or its process ends.
        """
        try:
            answer = getattr(self._vector, method)(*arguments, **named)
        except (EOFError, OSError):
            how = self._how_it_ended()
            _kill(self._vector)
            raise RuntimeError(f"env: {self._name}: {how}") from None
        except BaseException:  # most likely a signal, after which answers and calls no longer match
            _kill(self._vector)
            raise
        failures = answer[-1].get("failure", ())
        for env, failure in enumerate(failures):
            if failure:
                _kill(self._vector)
                raise RuntimeError(f"env: {self._name}: environment {env} failed in {method}\n\n{failure}")
        return answer

    def _how_it_ended(self) -> str:
        """Names the processes that ended and their exit codes."""
        by_sentinel = {process.sentinel: (env, process) for env, process in enumerate(self._vector.processes)}
        ends = []
        for sentinel in multiprocessing.connection.wait(list(by_sentinel), timeout=_CLOSE_S):
            env, process = by_sentinel[sentinel]  # type: ignore[index]
            process.join()
            ends.append(f"the process of environment {env} ended with code {process.exitcode}")
        return ", ".join(ends) or "a process of its environments ended"


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


class _ImageEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One environment that returns images and steps only if the first number of an action is 1.

    Gymnasium makes one more in the owner's process to read its spaces, so the environment itself is made at the first
    reset. A failure travels as text, `failure` in the info, because the exception itself may not be picklable. The
    owner resizes: importing numba would take each process half a second.
    """

    def __init__(self, known: Probe) -> None:
        self.observation_space = Box(0, 255, known.image_shape, np.uint8)
        self.action_space = _action_space(known.spec.actions)
        self._known = known
        self._env: gymnasium.Env | None = None
        self._image = np.zeros(known.image_shape, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        try:
            if self._env is None:
                self._env = self._begin(seed)
            observation, _ = self._env.reset(seed=seed, options=options or None)
            self._image = self._image_now(self._env, observation)
        except Exception:
            return self._image, {"failure": traceback.format_exc()}
        return self._image, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not action[0]:
            return self._image, 0.0, False, False, {}
        try:
            assert self._env is not None, "step before reset"
            own = _own_action(self._env.action_space, action[1:])
            observation, reward, terminated, truncated, _ = self._env.step(own)
            self._image = self._image_now(self._env, observation)
            return self._image, float(reward), bool(terminated), bool(truncated), {}
        except Exception:
            return self._image, 0.0, False, False, {"failure": traceback.format_exc()}

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _begin(self, seed: int | None) -> gymnasium.Env:
        begin_worker()
        gymnasium.logger.min_level = gymnasium.logger.ERROR  # the owner has shown the warnings
        random.seed(seed)  # for environments that ignore the generator that Gymnasium gives them
        np.random.seed(seed)
        return self._known.make()

    def _image_now(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        image = image_of(env, observation, self._known.observed)
        if not is_image(image) or image.shape != self._known.image_shape:
            raise ValueError(f"expected uint8 {list(self._known.image_shape)} as at first, got {described(image)}")
        return image


def _action_space(actions: Actions) -> Box:
    """Space of (whether to step, the action) as numbers."""
    return Box(-np.inf, np.inf, (1 + (actions.size if actions.continuous else 1),), np.float64)


def _own_action(space: Space, action: np.ndarray) -> Any:
    """Converts an action, [1] with the index of a discrete one or [k] in -1..1, to the environment's own."""
    if isinstance(space, Discrete):
        return space.start + int(action[0])
    assert isinstance(space, Box)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return np.clip(low + (action + 1) / 2 * (high - low), low, high).astype(space.dtype)


def _frames(images: np.ndarray) -> np.ndarray:
    """Resizes images [k, H, W], [k, H, W, C] or [k, C, H, W] uint8, with C of 1 or 3, to [k, 3, 64, 64] by area."""
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    small = resize_area(images, *FRAME_SHAPE[1:]).transpose(0, 3, 1, 2)
    return np.repeat(small, 3 // small.shape[1], axis=1)
