"""Miner: the shortest way to the diamonds and then to the exit, found by playing on in a copy of the grid.

What falls, rolls and is pushed follows from the grid alone, so a viewer can foresee it.
"""

from __future__ import annotations

import heapq

import numba
import numpy as np

from bcvlr_fast.experts.simulator import DOWN, IDLE, LEFT, RIGHT, UP, View

TEMPERATURE = 0.1
_BOULDER, _DIAMOND, _FALLING_BOULDER, _FALLING_DIAMOND, _EXIT, _DIRT, _SPACE = 1, 2, 3, 4, 6, 9, 100
_FALLING = 2  # what falls is numbered by this much above what lies
_ACTIONS = (LEFT, DOWN, UP, RIGHT, IDLE)
_DIRECTIONS = np.array([[-1, 0], [0, -1], [0, 1], [1, 0], [0, 0]])
_MAX_NODES = 600
_COMPLETED = 10.0
_CRUSHED, _BLOCKED = -10.0, -10.0
_PLAYING, _ENDED_WELL, _ENDED_BADLY = 0, 1, 2


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action: the discounted reward of the best way that begins with it."""
    agent = seen.entities[0, :2].astype(np.int64)
    goal = seen.entities[seen.kinds == _EXIT][0, :2].astype(np.int64)
    grid = seen.grid.astype(np.int8)
    best = np.full(15, -np.inf)
    for direction, action in enumerate(_ACTIONS):
        best[action] = _value(grid, agent, goal, direction) - 0.05 * (action == IDLE)
    return best


@numba.njit(cache=True)
def _is_diamond(kind: int) -> bool:
    return kind in (_DIAMOND, _FALLING_DIAMOND)


@numba.njit(cache=True)
def _step(grid: np.ndarray, agent: np.ndarray, goal: np.ndarray, direction: int) -> int:
    """Takes a step in place and returns whether the level goes on or how it ended.

    The order of the rules is the game's: move, push, dig, then everything falls, rows from below.
    """
    height, width = grid.shape
    none_left = not np.any((grid == _DIAMOND) | (grid == _FALLING_DIAMOND))
    dx, dy = _DIRECTIONS[direction]
    x, y = agent[0] + dx, agent[1] + dy
    if 0 <= x < width and 0 <= y < height:
        if grid[y, x] not in (_BOULDER, _FALLING_BOULDER):
            agent[:] = x, y
            if x == goal[0] and y == goal[1] and none_left:
                return _ENDED_WELL
        elif dx != 0 and grid[y, x] == _BOULDER and 0 <= x + dx < width and grid[y, x + dx] == _SPACE:
            grid[y, x], grid[y, x + dx] = _SPACE, _BOULDER
            agent[0] = x
    if grid[agent[1], agent[0]] in (_DIRT, _DIAMOND):
        grid[agent[1], agent[0]] = _SPACE
    ended = _PLAYING
    for y in range(height):
        for x in range(width):
            kind = grid[y, x]
            if not _BOULDER <= kind <= _FALLING_DIAMOND:
                continue
            at_rest = kind - _FALLING if kind > _FALLING else kind
            below = grid[y - 1, x] if y > 0 else -1
            above_agent = agent[0] == x and agent[1] == y - 1
            grid[y, x] = at_rest
            if below == _SPACE and not above_agent:
                grid[y, x], grid[y - 1, x] = _SPACE, at_rest + _FALLING
            elif above_agent and kind > _FALLING:
                ended = _ENDED_BADLY
            elif _BOULDER <= below <= _FALLING_DIAMOND:
                for side in (-1, 1):
                    if _is_free(grid, agent, x + side, y) and _is_free(grid, agent, x + side, y - 1):
                        grid[y, x], grid[y, x + side] = _SPACE, at_rest
                        break
    return ended


@numba.njit(cache=True)
def _is_free(grid: np.ndarray, agent: np.ndarray, x: int, y: int) -> bool:
    return 0 <= x < grid.shape[1] and grid[y, x] == _SPACE and not (agent[0] == x and agent[1] == y)


@numba.njit(cache=True)
def _estimate(grid: np.ndarray, agent: np.ndarray, goal: np.ndarray) -> tuple[int, int]:
    """(steps to all diamonds, nearest first, and the exit as if nothing were in the way, number of diamonds)."""
    places = [(a, b) for b in range(grid.shape[0]) for a in range(grid.shape[1]) if _is_diamond(grid[b, a])]
    count, steps, x, y = len(places), 0, agent[0], agent[1]
    while len(places) > 0:
        nearest = 0
        for n in range(1, len(places)):
            if abs(places[n][0] - x) + abs(places[n][1] - y) < abs(places[nearest][0] - x) + abs(
                places[nearest][1] - y
            ):
                nearest = n
        a, b = places.pop(nearest)
        steps += abs(a - x) + abs(b - y)
        x, y = a, b
    return steps + abs(goal[0] - x) + abs(goal[1] - y), count


@numba.njit(cache=True)
def _key(grid: np.ndarray, agent: np.ndarray) -> int:
    """Hash of the places of the agent and of what can fall."""
    key = agent[0] * 31 + agent[1] * 977
    for y in range(grid.shape[0]):
        for x in range(grid.shape[1]):
            if _BOULDER <= grid[y, x] <= _FALLING_DIAMOND:
                key = (key ^ ((y * 16 + x) * 8 + grid[y, x])) * 1099511628211
    return key


@numba.njit(cache=True)
def _value(grid: np.ndarray, agent: np.ndarray, goal: np.ndarray, direction: int) -> float:
    """Discounted reward of the best way that begins in a direction, by A*; without one, of the best beginning."""
    start, place = grid.copy(), agent.copy()
    ended = _step(start, place, goal, direction)
    if ended != _PLAYING:
        return _COMPLETED if ended == _ENDED_WELL else _CRUSHED
    if direction < 4 and place[0] == agent[0] and place[1] == agent[1]:
        return _BLOCKED
    _, all_diamonds = _estimate(grid, agent, goal)
    left, count = _estimate(start, place, goal)
    best = all_diamonds - count - 0.02 * left
    queue = [(1.0 + 1.5 * left, 0)]
    grids, places, costs = [start], [place], [1]
    known = {_key(start, place)}
    while len(queue) > 0 and len(grids) < _MAX_NODES:
        _, node = heapq.heappop(queue)
        for following in range(5):
            child, at, cost = grids[node].copy(), places[node].copy(), costs[node] + 1
            ended = _step(child, at, goal, following)
            if ended == _ENDED_WELL:
                return 0.97**cost * (_COMPLETED + all_diamonds)
            key = _key(child, at)
            if ended == _ENDED_BADLY or key in known:
                continue
            known.add(key)
            left, count = _estimate(child, at, goal)
            best = max(best, 0.97**cost * (all_diamonds - count) - 0.02 * left)
            heapq.heappush(queue, (cost + 1.5 * left, len(grids)))
            grids.append(child)
            places.append(at)
            costs.append(cost)
    return best
