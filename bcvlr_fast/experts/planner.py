"""An expert for every Procgen game without learning: a search or a reactive expert, in the simulator, on all cores.

Each worker plays whole levels. The episode of a level depends on the level alone, not on the number of workers.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bcvlr_fast.experts.procgen import REACTIVE, Reactive
from bcvlr_fast.experts.replays import Replays, load_replays
from bcvlr_fast.experts.search import SEARCHES, solve
from bcvlr_fast.experts.simulator import Simulator, check_installed
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder, check_writable
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Bar, Screen
from bcvlr_fast.system.workers import worker_pool

_SAVE_EVERY_S = 10.0


@dataclass(frozen=True)
class Planned:
    """The planned episode of one level."""

    level: int
    actions: np.ndarray
    """[T] uint8; empty if the search found no way to the end of the level."""
    episode_return: float

    @property
    def dropped(self) -> bool:
        return len(self.actions) == 0


def make_replays(game: str, frames: int, first_level: int, workers: int, out: Path | None, screen: Screen) -> Path:
    """Plans at least `frames` frames into the file `out`, by default one in the cache, and returns it.

    `workers` 0 uses every core. Raises UserError if the simulator is missing or `out` cannot be used.
    """
    file = out or cache_folder() / "experts" / f"procgen-{game}-planner.npz"
    if file.suffix != ".npz":
        raise UserError(f"out: expected a file named .npz, got {file}")
    check_writable(file.parent, "out")
    check_installed()
    plan_replays(game, frames, first_level, workers or usable_cores(), file, screen)
    return file


@contextlib.contextmanager
def plan(game: str, first_level: int, workers: int) -> Iterator[Iterator[Planned]]:
    """Context with an iterator that plans the levels `first_level`, `first_level` + 1, ... of a game on demand.

    The iterator raises UserError if the simulator does not load. The context does if a worker dies.
    """
    died = f"planner: a worker died (is there memory for {workers}? --workers sets fewer)"
    with worker_pool(workers, died=died) as pool:
        yield _ahead(pool, game, first_level, workers)


def _ahead(pool: ProcessPoolExecutor, game: str, first_level: int, workers: int) -> Iterator[Planned]:
    """Yields levels in order and keeps four per worker in progress."""
    pending = deque(pool.submit(_play, game, first_level + i) for i in range(4 * workers))
    level = first_level + len(pending)
    while True:
        yield pending.popleft().result()
        pending.append(pool.submit(_play, game, level))
        level += 1


def plan_replays(game: str, frames: int, first_level: int, workers: int, file: Path, screen: Screen) -> Replays:
    """Plans until there are `frames` frames, continuing a `file` that exists, and saves every ten seconds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made = load_replays(file, game) if file.exists() else Replays.none(game)
    played = np.concatenate([made.level, made.dropped])
    if len(played) and played.min() != first_level:
        raise UserError(f"first_level: {file} starts with level {played.min()}, got {first_level}")
    if made.frames >= frames:
        return made
    episodes: list[Planned] = []
    with (
        screen.bar(f"planning {game}", total=frames, unit="frames", done=made.frames) as bar,
        plan(game, first_level + len(played), workers) as planned,
    ):
        try:
            done, saved = made.frames, time.monotonic()
            while done < frames:
                episode = next(planned)
                episodes.append(episode)
                done += 0 if episode.dropped else len(episode.actions) + 1
                _show(bar, episode)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    made, episodes, saved = _joined(made, episodes), [], time.monotonic()
                    made.save(file)
        finally:
            made = _joined(made, episodes)
            if len(made.level):
                made.save(file)
    return made


def _show(bar: Bar, episode: Planned) -> None:
    if not episode.dropped:
        bar.advance(len(episode.actions) + 1)
        bar.show(f"level {episode.level}: return {episode.episode_return:.1f}")


def _joined(made: Replays, episodes: list[Planned]) -> Replays:
    kept = [episode for episode in episodes if not episode.dropped]
    dropped = [episode.level for episode in episodes if episode.dropped]
    return replace(
        made,
        level=np.append(made.level, np.array([e.level for e in kept], np.int32)),
        length=np.append(made.length, np.array([len(e.actions) for e in kept], np.int32)),
        actions=np.concatenate([made.actions, *(e.actions for e in kept)]),
        episode_return=np.append(made.episode_return, np.array([e.episode_return for e in kept], np.float32)),
        dropped=np.append(made.dropped, np.array(dropped, np.int32)),
    )


def _play(game: str, level: int) -> Planned:
    """Plans a level; runs in a worker."""
    return _player(game).play(level)


@functools.cache
def _player(game: str) -> _Player:
    return _Player(game)


class _Player:
    def __init__(self, game: str) -> None:
        self._game = game
        self._search = SEARCHES.get(game)
        self._simulator = Simulator(game, len(self._search.actions), level=0) if self._search else None

    def play(self, level: int) -> Planned:
        world = Simulator(self._game, 1, level)
        try:
            if self._search and self._simulator:
                actions = np.array(solve(self._simulator, world.save(), self._search) or [], np.uint8)
                return Planned(level, actions, _return(world, actions))
            return _react(world, REACTIVE[self._game], level)
        finally:
            world.close()


def _react(world: Simulator, expert: Reactive, level: int) -> Planned:
    taken: list[int] = []
    total = 0.0
    while True:
        action = int(expert.scores(world.view()).argmax())
        reward, ended, _ = world.step(action)
        taken.append(action)
        total += float(reward[0])
        if ended[0]:
            return Planned(level, np.array(taken, np.uint8), total)


def _return(world: Simulator, actions: np.ndarray) -> float:
    return sum(float(world.step(int(action))[0][0]) for action in actions)
