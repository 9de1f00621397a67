"""Environments that MuJoCo simulates and draws, distributed over one process per core."""

from __future__ import annotations

import multiprocessing
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from bcvlr_fast.envs.episodes import Episode, Episodes
from bcvlr_fast.envs.interface import Step
from bcvlr_fast.envs.pool import no_rendering
from bcvlr_fast.envs.simulation import SIDE, Simulation
from bcvlr_fast.envs.specs import EnvSpec, Rendering, env_seeds
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.workers import begin_worker, without_main

Simulate = Callable[[list[int], Rendering | None], Simulation]
"""Makes the physics of one environment per seed; it must be picklable."""


class Simulated:
    """A `PixelEnv` of a MuJoCo task.

    Drawing takes nearly all of a step, and software rendering crashes with several threads, so each core gets a
    process, which is also what ends where EGL does not work. Blind environments stay in this process.
    """

    def __init__(
        self, spec: EnvSpec, simulate: Simulate, num_envs: int, seed: int, rendering: Rendering | None
    ) -> None:
        """`rendering` None makes blind environments. Raises UserError if rendering does not work."""
        self.spec = spec
        self.num_envs = num_envs
        seeds = env_seeds(seed, num_envs)
        shares = np.array_split(np.arange(num_envs), 1 if rendering is None else min(num_envs, usable_cores()))
        self._first = np.array([share[0] for share in shares])
        part_type: Callable[..., Any] = _LocalPart if rendering is None else _ProcessPart
        self._parts = [part_type(simulate, [seeds[n] for n in share], rendering) for share in shares]
        try:
            for part in self._parts:
                part.result()
        except BaseException:
            self.close()
            raise
        self.last_reward = np.zeros(num_envs)
        self.last_success = np.zeros(num_envs, bool)
        """[num_envs] bool: success in each environment's newest step, for experts only."""
        self.states: np.ndarray
        """[num_envs, S] float32: states to act on next, for experts only; set by `reset`."""
        self._episodes = Episodes(num_envs)

    def reset(self, envs: np.ndarray | None = None) -> np.ndarray:
        """Starts new episodes in all environments or in `envs` [k] and returns frames [k, C, H, W] uint8."""
        chosen = np.arange(self.num_envs) if envs is None else np.asarray(envs)
        shares = self._shares(chosen)
        for part, _, ids in shares:
            part.ask("reset", ids)
        begun = [(rows, *part.result()) for part, rows, _ in shares]
        if envs is None:
            self.states = np.empty((self.num_envs, begun[0][2].shape[1]), np.float32)
        frames = np.empty((len(chosen), *self.spec.frame_shape), np.uint8)
        for rows, first_frames, states in begun:
            frames[rows], self.states[chosen[rows]] = first_frames, states
        self._episodes.restart(chosen)
        return frames

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None, drawn: np.ndarray | None = None) -> Step:
        """Steps as a `PixelEnv`. Of the environments `envs` [k], those without `drawn` [k] bool return black frames."""
        envs = np.arange(self.num_envs) if envs is None else np.asarray(envs)
        drawn = np.ones(len(envs), bool) if drawn is None else drawn
        actions = self.spec.actions.check(actions, len(envs))
        shares = self._shares(envs)
        for part, rows, ids in shares:
            part.ask("step", actions[rows], ids, drawn[rows])
        frames = np.empty((len(envs), *self.spec.frame_shape), np.uint8)
        first_frames = np.empty_like(frames)
        ended, success = np.zeros(len(envs), bool), np.zeros(len(envs), bool)
        for part, rows, _ in shares:
            result: _BatchStep = part.result()
            frames[rows], ended[rows], success[rows] = result.frames, result.ended, result.success
            first_frames[rows[result.ended]] = result.first_frames
            self.last_reward[envs[rows]], self.states[envs[rows]] = result.reward, result.states
        self.last_success[envs] = success
        self._episodes.add(envs, ended, self.last_reward[envs], success if self.spec.score == "success" else None)
        return Step(frames, ended, first_frames[ended])

    def pop_episodes(self) -> list[Episode]:
        return self._episodes.pop()

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def _shares(self, envs: np.ndarray) -> list[tuple[Any, np.ndarray, np.ndarray]]:
        """(part, rows of `envs`, numbers within the part) for each part that has some of the environments `envs`."""
        owner = np.searchsorted(self._first, envs, side="right") - 1
        places = [(part, np.flatnonzero(owner == part)) for part in np.unique(owner)]
        return [(self._parts[n], rows, (envs[rows] - self._first[n]).astype(np.int32)) for n, rows in places]


class _BatchStep(NamedTuple):
    """Result of a batch's step of k environments."""

    frames: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    success: np.ndarray
    first_frames: np.ndarray
    states: np.ndarray
    """[k, S] float32: states to act on next."""


class _Batch:
    """Some environments in this process: physics, and frames unless `rendering` is None."""

    def __init__(self, simulate: Simulate, seeds: list[int], rendering: Rendering | None) -> None:
        self._rendering = rendering
        self._simulation = simulate(seeds, rendering)
        # Checks that drawing works. Blind batches reset too, so that their episodes begin in the same states.
        self.reset(np.arange(len(seeds), dtype=np.int32))

    def reset(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(frames [k, 3, 64, 64] uint8, states [k, S] float32) at the start of new episodes."""
        states = self._simulation.reset(ids)
        return self._frames(ids), states

    def step(self, actions: np.ndarray, ids: np.ndarray, drawn: np.ndarray) -> _BatchStep:
        states, outcome = self._simulation.step(actions, ids)
        frames = np.zeros((len(ids), 3, SIDE, SIDE), np.uint8)
        frames[drawn] = self._frames(ids[drawn])
        over = ids[outcome.ended]
        if len(over):
            states[outcome.ended] = self._simulation.reset(over)
        return _BatchStep(frames, outcome.reward, outcome.ended, outcome.success, self._frames(over), states)

    def close(self) -> None:
        self._simulation.close()

    def _frames(self, ids: np.ndarray) -> np.ndarray:
        if self._rendering is None or not len(ids):
            return np.broadcast_to(np.uint8(0), (len(ids), 3, SIDE, SIDE))
        return self._simulation.render(ids)


class _LocalPart:
    """A batch in this process."""

    def __init__(self, *arguments: Any) -> None:
        self._batch = _Batch(*arguments)
        self._result: Any = None

    def ask(self, method: str, *arguments: Any) -> None:
        self._result = getattr(self._batch, method)(*arguments)

    def result(self) -> Any:
        return self._result

    def close(self) -> None:
        self._batch.close()


class _ProcessPart:
    """A batch in a process of its own."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        with without_main():
            self._process.start()
        theirs.close()
        weakref.finalize(self, self._pipe.close)  # ends the process, also when this one exits
        self._begun = False

    def ask(self, method: str, *arguments: Any) -> None:
        try:
            self._pipe.send((method, arguments))
        except OSError:
            self._raise_end()

    def result(self) -> Any:
        """Result of the newest `ask`; the first call returns once the environments exist and draw."""
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
    """Runs in the process: makes the batch and answers until the pipe is closed."""
    begin_worker()
    try:
        try:
            batch = _Batch(*arguments)
        except RuntimeError as error:  # EnvPool's error about EGL, where it does not end the process
            raise UserError(no_rendering(str(error))) from None
        pipe.send(None)
        while True:
            method, asked = pipe.recv()
            pipe.send(getattr(batch, method)(*asked))
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the owner closed the pipe
    except Exception as error:
        pipe.send(error)
