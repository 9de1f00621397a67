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
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.workers import begin_worker, without_main


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
        # Tries whether it draws; blind ones do the same, so that their episodes begin alike.
        self.reset(np.arange(len(seeds), dtype=np.int32))

    def reset(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(frames, states) of environments at the start of an episode."""
        states = self._simulation.reset(ids)
        return self._frames(ids), states

    def step(self, actions: np.ndarray, ids: np.ndarray, drawn: np.ndarray) -> _Seen:
        states, outcome = self._simulation.step(actions, ids)
        frames = np.zeros((len(ids), 3, SIDE, SIDE), np.uint8)
        frames[drawn] = self._frames(ids[drawn])
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
        """[num_envs] of the newest step, as is `last_success`, and `states` [num_envs, S] float32: for experts; nothing
        that learns from videos has them."""
        self.last_success = np.zeros(num_envs, bool)
        self._episodes = Episodes(num_envs)

    def reset(self, envs: np.ndarray | None = None) -> np.ndarray:
        """Starts anew all episodes, or those of `envs` [k]: frames [k, C, H, W] uint8."""
        chosen = np.arange(self.num_envs) if envs is None else np.asarray(envs)
        shares = self._shares(chosen)
        for part, _, ids in shares:
            part.ask("reset", ids)
        begun = [(mine, *part.result()) for part, mine, _ in shares]
        if envs is None:
            self.states = np.empty((self.num_envs, begun[0][2].shape[1]), np.float32)
        frames = np.empty((len(chosen), *self.spec.frame_shape), np.uint8)
        for mine, first_frames, states in begun:
            frames[mine], self.states[chosen[mine]] = first_frames, states
        self._episodes.restart(chosen)
        return frames

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None, drawn: np.ndarray | None = None) -> Step:
        """As a `PixelEnv`; frames of those of `envs` [k] that are not to be `drawn` [k] bool are black."""
        envs = np.arange(self.num_envs) if envs is None else np.asarray(envs)
        drawn = np.ones(len(envs), bool) if drawn is None else drawn
        actions = self.spec.actions.check(actions, len(envs))
        shares = self._shares(envs)
        for part, mine, ids in shares:
            part.ask("step", actions[mine], ids, drawn[mine])
        frames = np.empty((len(envs), *self.spec.frame_shape), np.uint8)
        first_frames = np.empty_like(frames)
        ended, success = np.zeros(len(envs), bool), np.zeros(len(envs), bool)
        for part, mine, _ in shares:
            seen: _Seen = part.result()
            frames[mine], ended[mine], success[mine] = seen.frames, seen.ended, seen.success
            first_frames[mine[seen.ended]] = seen.first_frames
            self.last_reward[envs[mine]], self.states[envs[mine]] = seen.reward, seen.states
        self.last_success[envs] = success
        self._episodes.add(envs, ended, self.last_reward[envs], success if self.spec.score == "success" else None)
        return Step(frames, ended, first_frames[ended])

    def pop_episodes(self) -> list[Episode]:
        return self._episodes.pop()

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def _shares(self, envs: np.ndarray) -> list[tuple[Any, np.ndarray, np.ndarray]]:
        """(part, places in `envs`, the part's own numbers) of each that has some of the environments `envs` [k]."""
        owner = np.searchsorted(self._first, envs, side="right") - 1
        places = [(part, np.flatnonzero(owner == part)) for part in np.unique(owner)]
        return [(self._parts[n], mine, (envs[mine] - self._first[n]).astype(np.int32)) for n, mine in places]


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
