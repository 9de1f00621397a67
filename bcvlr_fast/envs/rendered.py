"""Simulated environments that must be drawn: shared out among processes, one a core."""

from __future__ import annotations

import multiprocessing
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from bcvlr_fast.envs import Episode, Step, parse_name, spec
from bcvlr_fast.envs.episodes import Episodes
from bcvlr_fast.envs.mujoco import SIDE, Simulation
from bcvlr_fast.envs.names import JACO_TASKS
from bcvlr_fast.envs.pool import no_rendering
from bcvlr_fast.envs.specs import env_seeds
from bcvlr_fast.errors import UserError
from bcvlr_fast.host import usable_cores
from bcvlr_fast.workers import begin_worker, without_main


class _Seen(NamedTuple):
    """Of a batch's step."""

    frames: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    success: np.ndarray
    first_frames: np.ndarray
    states: np.ndarray
    """[k, S] to act on next."""


class Batch:
    """Some environments in this process: physics, and pictures unless `rendering` is None."""

    def __init__(self, name: str, seeds: list[int], rendering: str | None) -> None:
        self.rendering = rendering
        self._simulation = simulation(name, seeds, rendering)
        self.reset()  # tries whether it draws; blind ones do the same, so that their episodes begin alike

    def reset(self) -> tuple[np.ndarray, np.ndarray]:
        """(frames, states) of all environments, at the start of an episode."""
        ids = np.arange(self._simulation.num_envs, dtype=np.int32)
        states = self._simulation.reset(ids)
        return self._frames(ids), states

    def step(self, actions: np.ndarray, ids: np.ndarray) -> _Seen:
        states, outcome = self._simulation.step(actions, ids)
        frames = self._frames(ids)
        over = ids[outcome.ended]
        if len(over):
            states[outcome.ended] = self._simulation.reset(over)
        return _Seen(frames, outcome.reward, outcome.ended, outcome.success, self._frames(over), states)

    def close(self) -> None:
        self._simulation.close()

    def _frames(self, ids: np.ndarray) -> np.ndarray:
        if self.rendering is None or not len(ids):
            return np.broadcast_to(np.uint8(0), (len(ids), 3, SIDE, SIDE))
        return self._simulation.render(ids)


def simulation(name: str, seeds: list[int], rendering: str | None) -> Simulation:
    """The physics of a task's environments, environment n seeded with seeds[n]."""
    suite, task = parse_name(name)
    if task in JACO_TASKS:
        from bcvlr_fast.envs.jaco import JacoSimulation

        return JacoSimulation(task, seeds, rendering)  # type: ignore[return-value]
    return Simulation(suite, task, seeds, rendering)


class Simulated:
    """A `PixelEnv` of DMControl or MetaWorld.

    Drawing is nearly all of a step, and drawing by the CPU crashes with several threads: so each core has a process,
    which also is what ends where EGL does not work. Blind environments stay in this process.
    """

    def __init__(self, name: str, num_envs: int, seed: int, rendering: str | None) -> None:
        self.spec = spec(name)
        self.num_envs = num_envs
        seeds = env_seeds(seed, num_envs)
        shares = np.array_split(np.arange(num_envs), 1 if rendering is None else min(num_envs, usable_cores()))
        self._first = np.array([share[0] for share in shares])
        own: Callable[..., Any] = _Here if rendering is None else _Process
        self._parts = [own(name, [seeds[n] for n in share], rendering) for share in shares]
        try:
            for part in self._parts:
                part.result()
        except BaseException:
            self.close()
            raise
        self.last_reward = np.zeros(num_envs)
        """[num_envs] of the newest step, and `states` [num_envs, S] float32: for experts; nothing that learns from
        videos has them."""
        self._episodes = Episodes(num_envs)

    def reset(self) -> np.ndarray:
        for part in self._parts:
            part.ask("reset")
        frames, states = zip(*(part.result() for part in self._parts), strict=True)
        self.states = np.concatenate(states)
        self._episodes.restart()
        return np.concatenate(frames)

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        envs = np.arange(self.num_envs) if envs is None else np.asarray(envs)
        actions = self.spec.actions.check(actions, len(envs))
        owner = np.searchsorted(self._first, envs, side="right") - 1
        asked = np.unique(owner)
        for part in asked:
            mine = owner == part
            self._parts[part].ask("step", actions[mine], (envs[mine] - self._first[part]).astype(np.int32))
        frames = np.empty((len(envs), *self.spec.frame_shape), np.uint8)
        first_frames = np.empty_like(frames)
        ended, success = np.zeros(len(envs), bool), np.zeros(len(envs), bool)
        for part in asked:
            mine = np.flatnonzero(owner == part)
            seen: _Seen = self._parts[part].result()
            frames[mine], ended[mine], success[mine] = seen.frames, seen.ended, seen.success
            first_frames[mine[seen.ended]] = seen.first_frames
            self.last_reward[envs[mine]], self.states[envs[mine]] = seen.reward, seen.states
        self._episodes.add(envs, ended, self.last_reward[envs], success if self.spec.score == "success" else None)
        return Step(frames, ended, first_frames[ended])

    def pop_episodes(self) -> list[Episode]:
        return self._episodes.pop()

    def close(self) -> None:
        for part in self._parts:
            part.close()


class _Here:
    """A batch in this process."""

    def __init__(self, *arguments: Any) -> None:
        self._batch = Batch(*arguments)
        self._result: Any = None

    def ask(self, method: str, *arguments: Any) -> None:
        self._result = getattr(self._batch, method)(*arguments)

    def result(self) -> Any:
        return self._result

    def close(self) -> None:
        self._batch.close()


class _Process:
    """A batch in a process of its own."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        with without_main():
            self._process.start()
        theirs.close()
        weakref.finalize(self, self._pipe.close)  # which ends the process, at this one's exit too
        self._begun = False

    def ask(self, method: str, *arguments: Any) -> None:
        try:
            self._pipe.send((method, arguments))
        except OSError:
            self._raise_end()

    def result(self) -> Any:
        """Of what was asked last; at first whether the environments are there and draw."""
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._raise_end()
        self._begun = True
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()

    def _raise_end(self) -> None:
        self._process.join(5)
        how = f"the process that draws ended with code {self._process.exitcode}"
        raise RuntimeError(f"env: {how}") if self._begun else UserError(no_rendering(how))


def _serve(pipe: Connection, *arguments: Any) -> None:
    """In the process: makes the batch, and answers until the pipe is closed."""
    begin_worker()
    try:
        try:
            batch = Batch(*arguments)
        except RuntimeError as error:  # EnvPool's, of EGL, where it does not end the process
            raise UserError(no_rendering(str(error))) from None
        pipe.send(None)
        while True:
            method, asked = pipe.recv()
            pipe.send(getattr(batch, method)(*asked))
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the owner closed the pipe
    except Exception as error:
        pipe.send(error)
