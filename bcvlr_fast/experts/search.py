"""A* search over restored states, for Procgen games with a reward at the goal: maze, heist, and the platformers."""

from __future__ import annotations

import heapq
import itertools
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bcvlr_fast.experts.simulator import DOWN, IDLE, LEFT, LEFT_UP, RIGHT, RIGHT_UP, UP, Simulator, View, view

_NOWHERE = 10_000
_CELLS_BETWEEN_TARGETS = 8
_WALLS = (6, 7, 8, 15, 16, 20, 51)


class Targets(NamedTuple):
    """Where the agent goes next."""

    cells: tuple[tuple[int, int], ...]
    """Alternative target cells (x, y)."""
    blocked: tuple[tuple[int, int], ...] = ()
    """Cells that are closed at present, such as locked doors."""
    later: int = 0
    """Number of targets that follow."""


@dataclass(frozen=True)
class Search:
    """Settings of the search in one game: targets, cells, and edges of the graph."""

    targets: Callable[[View], Targets]
    cell: Callable[[View, int, float], tuple[int, ...]]
    """Maps (view, step, fineness) to a key; states with equal keys count as the same place."""
    actions: tuple[int, ...]
    hold_steps: int
    """Steps for which an edge holds one action."""
    cells_per_step: float
    """Speed of the agent, for the estimate of remaining steps."""
    diagonal: bool = True
    """Whether the estimate allows diagonal moves."""
    weight: float = 1.0
    """Weight of the estimate. Above 1 the search expands fewer nodes and finds longer paths."""
    change_cost_steps: float = 0.5
    """Cost of a change of the action, in steps."""
    max_nodes: int = 2_500
    """Nodes to expand before the level is given up."""
    tries: int = 3
    """Number of tries; after one that runs out of nodes, the next halves the edges and the cells."""


@dataclass(slots=True)
class _Node:
    state: bytes
    """Emptied once the node is expanded, to save hundreds of megabytes per search."""
    cell: tuple[int, ...]
    steps: int
    cost: float
    """Steps from the start plus the cost of changes of the action."""
    action: int
    parent: _Node | None


def solve(simulator: Simulator, start: bytes, search: Search) -> list[int] | None:
    """Returns the actions from the state `start` to the completed level, or None if no path was found.

    `simulator` has one copy per action of the search.
    """
    for halvings in range(search.tries):
        hold_steps = max(1, search.hold_steps >> halvings)
        try:
            return _solve(simulator, start, search, hold_steps, fineness=float(2**halvings))
        except _NoPath:
            continue
    return None


class _NoPath(Exception):
    """All reachable places were visited, and none completes the level."""


def _solve(simulator: Simulator, start: bytes, search: Search, hold_steps: int, fineness: float) -> list[int] | None:
    distances = _Distances(search.diagonal)

    def estimate(seen: View) -> float:
        targets = search.targets(seen)
        x, y = seen.entities[0, :2]
        height, width = seen.grid.shape
        row, column = min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)
        cells = distances.of(seen.grid, targets)[row, column] + _CELLS_BETWEEN_TARGETS * targets.later
        return float(search.weight * cells / search.cells_per_step)

    first = view(start)
    root = _Node(start, search.cell(first, 0, fineness), 0, 0.0, IDLE, None)
    best = {root.cell: root.cost}
    order = itertools.count()
    queue: list[tuple[float, int, _Node]] = [(estimate(first), next(order), root)]
    actions = np.array(search.actions, np.int32)
    expanded = 0
    while expanded < search.max_nodes:
        if not queue:
            raise _NoPath
        _, _, node = heapq.heappop(queue)
        if node.cost > best[node.cell]:  # a cheaper path to the same place was found since
            continue
        expanded += 1
        for copy in range(len(actions)):
            simulator.restore(node.state, copy)
        node.state = b""
        alive = np.ones(len(actions), bool)
        for step in range(hold_steps):
            _, ended, completed = simulator.step(actions)
            if (alive & completed).any():
                return _path(node) + [int(actions[(alive & completed).argmax()])] * (step + 1)
            alive &= ~ended
        for copy in np.flatnonzero(alive).tolist():
            action = int(actions[copy])
            state = simulator.save(copy)
            seen = view(state)
            steps = node.steps + hold_steps
            cost = node.cost + hold_steps + search.change_cost_steps * (action != node.action)
            cell = search.cell(seen, steps, fineness)
            if cost < best.get(cell, np.inf):
                best[cell] = cost
                reached = _Node(state, cell, steps, cost, action, node)
                heapq.heappush(queue, (cost + estimate(seen), next(order), reached))
    return None


def _path(node: _Node) -> list[int]:
    """The actions that lead to a node."""
    backwards: list[int] = []
    while (parent := node.parent) is not None:
        backwards += [node.action] * (node.steps - parent.steps)
        node = parent
    return backwards[::-1]


class _Distances:
    """Distances in cells to the nearest target around walls; one field per set of targets."""

    def __init__(self, diagonal: bool) -> None:
        straight = [(1, 0), (-1, 0), (0, 1), (0, -1)]
        self._moves = straight + ([(1, 1), (1, -1), (-1, 1), (-1, -1)] if diagonal else [])
        self._fields: dict[Targets, np.ndarray] = {}

    def of(self, grid: np.ndarray, targets: Targets) -> np.ndarray:
        """Field [height, width] int of distances."""
        key = Targets(targets.cells, targets.blocked)
        if key not in self._fields:
            self._fields[key] = self._field(grid, key)
        return self._fields[key]

    def _field(self, grid: np.ndarray, targets: Targets) -> np.ndarray:
        height, width = grid.shape
        open_cells = ~np.isin(grid, _WALLS)
        for x, y in targets.blocked:
            open_cells[y, x] = False
        field = np.full((height, width), _NOWHERE)
        queue = deque(targets.cells)
        for x, y in targets.cells:
            field[y, x] = 0
        while queue:
            x, y = queue.popleft()
            for dx, dy in self._moves:
                i, j = x + dx, y + dy
                if 0 <= i < width and 0 <= j < height and open_cells[j, i] and field[j, i] == _NOWHERE:
                    field[j, i] = field[y, x] + 1
                    queue.append((i, j))
        return field


def _cells(seen: View, kind: int) -> tuple[tuple[int, int], ...]:
    """Cells with entities or grid objects of a kind."""
    rows = seen.entities[seen.kinds == kind]
    rows = rows[1:] if kind == 0 else rows
    placed = [(int(x), int(y)) for x, y in rows[:, :2]]
    found = [(int(x), int(y)) for y, x in np.argwhere(seen.grid == kind)]
    return tuple(sorted(placed + found))


def _goal(kind: int) -> Callable[[View], Targets]:
    return lambda seen: Targets(_cells(seen, kind))


def _heist(seen: View) -> Targets:
    """Targets the nearest key that is not behind a door, then the gem. Doors whose key is held are open."""
    door, key, gem = 1, 2, 9
    held = struct.unpack_from(f"<{struct.unpack_from('<i', seen.rest, 8)[0]}i", seen.rest, 12)
    doors = [
        (int(x), int(y))
        for x, y, theme in zip(*seen.entities[seen.kinds == door, :2].T, seen.themes[seen.kinds == door], strict=True)
        if not held[theme]
    ]
    keys = _cells(seen, key)
    return Targets(keys or _cells(seen, gem), tuple(doors), len(keys))


def _climber(seen: View) -> Targets:
    """Targets the lowest coin first."""
    coins = sorted(_cells(seen, 1), key=lambda cell: cell[1])
    return Targets(tuple(coins[:1]), later=len(coins) - 1)


def _motion(seen: View, places: float, speeds: float) -> tuple[int, ...]:
    """Position and speed of the agent in units of 1 / `places` cells and 1 / `speeds` cells per step."""
    x, y, vx, vy = (float(value) for value in seen.entities[0, :4])
    return int(x * places), int(y * places), round(vx * speeds), round(vy * speeds)


def _maze_cell(seen: View, _: int, fineness: float) -> tuple[int, ...]:
    return _motion(seen, fineness, 0)


def _heist_cell(seen: View, _: int, fineness: float) -> tuple[int, ...]:
    return (*_motion(seen, 3 * fineness, 0), len(seen.entities))


def _platform_cell(seen: View, _: int, fineness: float) -> tuple[int, ...]:
    return _motion(seen, 1.5 * fineness, 2 * fineness)


def _climber_cell(seen: View, step: int, fineness: float) -> tuple[int, ...]:
    return (*_platform_cell(seen, step, fineness), len(seen.entities), int(step * fineness) // 16)


def _ninja_cell(seen: View, step: int, fineness: float) -> tuple[int, ...]:
    charge = struct.unpack_from("<f", seen.rest, len(seen.rest) - 12)[0]
    bombs = int((seen.grid == 6).sum())
    return (*_platform_cell(seen, step, fineness), round(charge * 4 * fineness), bombs)


def _jumper_cell(seen: View, step: int, fineness: float) -> tuple[int, ...]:
    return (*_platform_cell(seen, step, fineness), seen.rest[0])


_PLATFORM = (RIGHT, RIGHT_UP, LEFT, LEFT_UP, UP, IDLE)
SEARCHES = {
    "maze": Search(_goal(2), _maze_cell, (RIGHT, UP, LEFT, DOWN), 1, 1.0, diagonal=False, change_cost_steps=0),
    "heist": Search(_heist, _heist_cell, (RIGHT, UP, LEFT, DOWN), 2, 0.6, diagonal=False),
    "coinrun": Search(_goal(1), _platform_cell, _PLATFORM, 4, 0.5, weight=1.5),
    "ninja": Search(_goal(1), _ninja_cell, (*_PLATFORM, 9, 10, 11, 12), 4, 0.5, weight=1.5, max_nodes=800),
    "jumper": Search(_goal(1), _jumper_cell, _PLATFORM, 4, 0.4, weight=1.5),
    "climber": Search(_climber, _climber_cell, _PLATFORM, 4, 0.5, weight=2.0),
}
