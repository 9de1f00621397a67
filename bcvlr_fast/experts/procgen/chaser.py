"""Chaser: the nearest orb by a way on which no enemy can come first, with room to turn away.

A frame does not show where an enemy is heading, so that it may come from either side.
"""

from __future__ import annotations

import numba
import numpy as np

from bcvlr_fast.experts.procgen.motion import best_by_action
from bcvlr_fast.experts.simulator import DOWN, LEFT, RIGHT, UP, View

TEMPERATURE = 0.03
_LARGE_ORB, _EGG, _WALL, _ENEMY, _ORB = 2, 4, 5, 6, 1002
_ACTIONS = np.array([LEFT, DOWN, UP, RIGHT])
_DIRECTIONS = np.array([[-1, 0], [0, -1], [0, 1], [1, 0]])
_SPEED = 0.5
_WEAK_SPEED = 0.3
"""Enemies below this speed can be eaten for now."""
_WEAK_STEPS, _EGG_STEPS = 20, 12
"""Steps that weak enemies and eggs are taken to need before they set out."""
_LEAD_STEPS = 2.5
"""By how much the agent has to be at a cell before an enemy can be there."""
_NEVER = 1000.0


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action."""
    entities, kinds = seen.entities[:, :6].astype(np.float64), seen.kinds
    agent, enemies, eggs = entities[0], entities[kinds == _ENEMY], entities[kinds == _EGG]
    is_open, orbs = seen.grid != _WALL, seen.grid == _ORB
    x, y = entities[kinds == _LARGE_ORB, :2].astype(int).T
    orbs[y, x] = True
    arrival = np.full(is_open.shape, _NEVER)
    for enemy in enemies:
        _spread(is_open, enemy, _WEAK_STEPS if np.abs(enemy[2:4]).max() < _WEAK_SPEED else 0, arrival)
    for egg in eggs:
        _spread(is_open, egg, _EGG_STEPS, arrival)
    turns_back = _DIRECTIONS @ agent[2:4] < 0
    return best_by_action(_ACTIONS, _values(is_open, agent, orbs, arrival) - 0.02 * turns_back)


@numba.njit(cache=True)
def _next_cell(is_open: np.ndarray, mover: np.ndarray, direction: np.ndarray) -> tuple[int, int, float]:
    """(column, row, steps) of the cell that a mover (x, y, ...) comes to next in a direction; column -1 at a wall."""
    x, y = mover[0] - 0.5, mover[1] - 0.5
    i, j = int(np.round(x)), int(np.round(y))
    along_x, along_y = abs(x - i) > 0.05, abs(y - j) > 0.05
    if (along_x and direction[0] == 0) or (along_y and direction[1] == 0):
        return -1, -1, 0.0
    if along_x:
        i = int(np.floor(x) if direction[0] < 0 else np.ceil(x))
    elif along_y:
        j = int(np.floor(y) if direction[1] < 0 else np.ceil(y))
    else:
        i, j = i + direction[0], j + direction[1]
    if not (0 <= j < is_open.shape[0] and 0 <= i < is_open.shape[1] and is_open[j, i]):
        return -1, -1, 0.0
    return i, j, (abs(x - i) + abs(y - j)) / _SPEED


@numba.njit(cache=True)
def _spread(is_open: np.ndarray, enemy: np.ndarray, delay: float, arrival: np.ndarray) -> None:
    """Lowers `arrival` [H, W] to the steps after which an enemy can be at each cell."""
    i, j = int(np.round(enemy[0] - 0.5)), int(np.round(enemy[1] - 0.5))
    own = np.full(is_open.shape, _NEVER)
    own[j, i] = delay
    for direction in _DIRECTIONS:
        a, b, steps = _next_cell(is_open, enemy, direction)
        if a >= 0:
            own[b, a] = min(own[b, a], delay + steps)
            _flood(is_open, own, a, b, np.full(is_open.shape, _NEVER), 0.0)
    for b in range(is_open.shape[0]):
        for a in range(is_open.shape[1]):
            arrival[b, a] = min(arrival[b, a], own[b, a])


@numba.njit(cache=True)
def _flood(is_open: np.ndarray, steps: np.ndarray, i: int, j: int, arrival: np.ndarray, lead: float) -> np.ndarray:
    """Lowers `steps` [H, W] to those of the shortest way from cell (i, j), and returns the cells on such ways, nearest
    first; ways lead only where one is `lead` steps before `arrival`."""
    queue = np.empty((4 * is_open.size, 2), np.int64)
    queue[0] = i, j
    head, tail = 0, 1
    while head < tail:
        a, b = queue[head]
        head += 1
        for direction in _DIRECTIONS:
            c, d = a + direction[0], b + direction[1]
            if 0 <= d < is_open.shape[0] and 0 <= c < is_open.shape[1] and is_open[d, c]:
                after = steps[b, a] + 1 / _SPEED
                if after < steps[d, c] and after + lead < arrival[d, c] and tail < len(queue):
                    steps[d, c] = after
                    queue[tail] = c, d
                    tail += 1
    return queue[:tail]


@numba.njit(cache=True)
def _values(is_open: np.ndarray, agent: np.ndarray, orbs: np.ndarray, arrival: np.ndarray) -> np.ndarray:
    """Values [4] of the directions: the nearest orb that can be reached safely, and the number of safe cells."""
    value = np.full(4, -5.0)
    for n in range(4):
        i, j, after = _next_cell(is_open, agent, _DIRECTIONS[n])
        if i < 0:
            continue
        if after + _LEAD_STEPS >= arrival[j, i]:
            value[n] = -1.0 + 0.02 * arrival[j, i]
            continue
        steps = np.full(is_open.shape, _NEVER)
        steps[int(np.round(agent[1] - 0.5)), int(np.round(agent[0] - 0.5))] = 0.0
        steps[j, i] = after
        safe = _flood(is_open, steps, i, j, arrival, _LEAD_STEPS)
        value[n] = 0.02 * min(len(safe), 12)
        for a, b in safe:
            if orbs[b, a]:
                value[n] += 0.93 ** steps[b, a]
                break
    return value
