"""An expert for every Procgen game without learning: plans in the original simulator, on all cores.

Each worker plays levels of its own; a level's episode depends on the level alone, not on the number of workers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import Pool

import numpy as np

from bcvlr_fast.experts.search import SEARCHES, solve
from bcvlr_fast.experts.shooting import SHOOTINGS, Shooter
from bcvlr_fast.experts.simulator import Simulator


@dataclass(frozen=True)
class Planned:
    """One level: its actions [T] uint8 and return, or none where the search found no way to its end."""

    level: int
    actions: np.ndarray
    episode_return: float

    @property
    def dropped(self) -> bool:
        return len(self.actions) == 0


@contextlib.contextmanager
def plan(game: str, first_level: int, workers: int) -> Iterator[Iterator[Planned]]:
    """Within it, levels `first_level`, `first_level` + 1, ... of a game, played in this order when asked for."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _begin, (game,)) as pool:
        yield _ahead(pool, first_level, workers)


def _ahead(pool: Pool, first_level: int, workers: int) -> Iterator[Planned]:
    """Keeps a few levels in work for each worker."""
    pending = [pool.apply_async(_play, (first_level + i,)) for i in range(4 * workers)]
    level = first_level + len(pending)
    while True:
        yield pending.pop(0).get()
        pending.append(pool.apply_async(_play, (level,)))
        level += 1


_player: _Player | None = None


def _begin(game: str) -> None:
    global _player
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends the workers
    _player = _Player(game)


def _play(level: int) -> Planned:
    assert _player is not None
    return _player.play(level)


class _Player:
    def __init__(self, game: str) -> None:
        self._game = game
        self._search = SEARCHES.get(game)
        copies = len(self._search.actions) if self._search else SHOOTINGS[game].candidates
        self._simulator = Simulator(game, copies, level=0)

    def play(self, level: int) -> Planned:
        world = Simulator(self._game, 1, level)
        try:
            if self._search:
                actions = np.array(solve(self._simulator, world.save(), self._search) or [], np.uint8)
                return Planned(level, actions, _return(world, actions))
            return self._shoot(world, level)
        finally:
            world.close()

    def _shoot(self, world: Simulator, level: int) -> Planned:
        shooter = Shooter(self._simulator, SHOOTINGS[self._game], seed=level)
        taken: list[int] = []
        total = 0.0
        while True:
            for action in shooter.decide(world.save(), taken[-1] if taken else Shooter.FIRST_ACTION):
                reward, ended, _ = world.step(int(action))
                taken.append(int(action))
                total += float(reward[0])
                if ended[0]:
                    return Planned(level, np.array(taken, np.uint8), total)


def _return(world: Simulator, actions: np.ndarray) -> float:
    return sum(float(world.step(int(action))[0][0]) for action in actions)
