"""Procgen: its 16 games, at the easy difficulty, through EnvPool."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcvlr_fast.envs.episodes import Episode, Episodes
from bcvlr_fast.envs.interface import PixelEnv, Step
from bcvlr_fast.envs.pool import check_order, envpool
from bcvlr_fast.envs.specs import FRAME_SHAPE, Actions, EnvSpec
from bcvlr_fast.envs.suite import EnvOptions, Suite

NUM_ACTIONS = 15
_SPEC = EnvSpec(FRAME_SHAPE, Actions(False, NUM_ACTIONS), steps_per_s=15.0)  # the rate of Procgen's own player
PROCGEN_GAMES = (
    "bigfish",
    "bossfight",
    "caveflyer",
    "chaser",
    "climber",
    "coinrun",
    "dodgeball",
    "fruitbot",
    "heist",
    "jumper",
    "leaper",
    "maze",
    "miner",
    "ninja",
    "plunder",
    "starpilot",
)


class Procgen:
    """A `PixelEnv` of one game.

    EnvPool spends a step on each reset and returns a pseudo-transition for it. Here a separate call resets an ended
    environment, so that every step is an interaction.
    """

    def __init__(self, game: str, num_envs: int, seed: int, level: int | None = None) -> None:
        """`level` fixes one level; None plays the full distribution."""
        self.num_envs, self.spec = num_envs, _SPEC
        self._pool = _pool(game, num_envs, seed, level)
        self._all = np.arange(num_envs, dtype=np.int32)
        self.last_reward = np.zeros(num_envs)
        self.level = np.zeros(num_envs, np.int32)
        """[num_envs]: level of the present episodes."""
        self._episodes = Episodes(num_envs)

    def reset(self) -> np.ndarray:
        self._episodes.restart()
        return self._start(self._all)

    def step(self, actions: np.ndarray, envs: np.ndarray | None = None) -> Step:
        ids = self._all if envs is None else np.asarray(envs, np.int32)
        actions = self.spec.actions.check(actions, len(ids)).astype(np.int32)
        frames, reward, terminated, truncated, info = self._pool.step(actions, ids)
        check_order(info["env_id"], ids)
        ended = terminated | truncated
        self.last_reward[ids] = reward
        self._episodes.add(ids, ended, reward)
        first = self._start(ids[ended]) if ended.any() else np.empty((0, *FRAME_SHAPE), np.uint8)
        return Step(frames, ended, first)

    def pop_episodes(self) -> list[Episode]:
        return self._episodes.pop()

    def close(self) -> None:
        self._pool.close()

    def _start(self, ids: np.ndarray) -> np.ndarray:
        frames, info = self._pool.reset(ids)
        check_order(info["env_id"], ids)
        self.level[ids] = info["level_seed"]
        return np.asarray(frames)


class Level:
    """A level of a game whose steps are sent and received apart, so that several levels take theirs at the same time.

    `Procgen` with one environment takes more than twice as long.
    """

    def __init__(self, game: str, level: int) -> None:
        self._pool = _pool(game, 1, 0, level)
        self._ids = np.zeros(1, np.int32)

    def reset(self) -> np.ndarray:
        """Begins the episode and returns its first frame [C, H, W] uint8."""
        frame: np.ndarray = self._pool.reset(self._ids)[0][0]
        return frame

    def send(self, action: int) -> None:
        """Begins a step."""
        self._pool.send(np.array([action], np.int32), self._ids)

    def receive(self) -> tuple[np.ndarray, float, bool]:
        """(frame [C, H, W] uint8, reward, whether the episode has ended) of the step."""
        frames, reward, terminated, truncated, _ = self._pool.recv()
        return frames[0], float(reward[0]), bool(terminated[0] or truncated[0])

    def close(self) -> None:
        self._pool.close()


def _pool(game: str, num_envs: int, seed: int, level: int | None) -> Any:
    levels = {} if level is None else {"num_levels": 1, "start_level": level}
    package = envpool("procgen", "envpool.procgen", probe="CoinrunEasy-v0")
    return package.make_gymnasium(f"{game.capitalize()}Easy-v0", num_envs=num_envs, seed=seed, **levels)


def _make(game: str, num_envs: int, seed: int, options: EnvOptions) -> PixelEnv:
    return Procgen(game, num_envs, seed, options.level)


SUITE = Suite(
    "procgen",
    spec=lambda _: _SPEC,
    make=_make,
    tasks=PROCGEN_GAMES,
    expert="procgen",
    makers=("planner", "distill", "ppo"),
)
