"""Plunder: move below where a ship like the one in the legend will be, and fire where no other ship is in the way.

A frame shows which way a ship sails, but not how fast: all are taken to have the same speed.
"""

from __future__ import annotations

import numba
import numpy as np

from bcvlr_fast.experts.procgen.motion import best_by_action, follow
from bcvlr_fast.experts.simulator import FIRE, IDLE, LEFT, RIGHT, View

TEMPERATURE = 0.03
_OWN_BALL, _LEGEND, _SHIP = 1, 2, 7
_LEGEND_SIDE = 4.0
_SIDE = 20.0
_SHIP_SPEED = 0.2
"""Between 0.15 and 0.25 in the game."""
_HORIZON_STEPS = 24
_RELOADING_STEPS = 3
_BALL_RADIUS = 0.25
_SURE_HIT, _POSSIBLE_HIT = 0.6, 1.15
"""Distances from the middle of a ship, in parts of the sum of the radii, at which a ball surely or possibly hits it."""


def _waits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first actions [P], steps before the shot [P], directions [P, T, 2]) of plans that wait or move, then fire."""
    first, before = [FIRE], [0]
    for action in (LEFT, IDLE, RIGHT):
        first += [action] * _HORIZON_STEPS
        before += range(1, _HORIZON_STEPS + 1)
    directions = np.zeros((len(first), _HORIZON_STEPS, 2))
    for row, action, steps in zip(directions, first, before, strict=True):
        row[:steps, 0] = {LEFT: -1, RIGHT: 1}.get(action, 0)
    return np.array(first), np.array(before), directions


_FIRST, _BEFORE, _DIRECTIONS = _waits()


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action."""
    entities, kinds, themes = seen.entities[:, :6].astype(np.float64), seen.kinds, seen.themes
    agent = entities[0]
    low = np.array([_LEGEND_SIDE + agent[4], 0.0])
    path = follow(agent, _DIRECTIONS, 0.45, 0.3825, low, _SIDE - agent[4:6])
    ships = entities[kinds == _SHIP]
    ships[:, 2] = _SHIP_SPEED * np.sign(ships[:, 2])
    wanted = themes[kinds == _SHIP] == themes[kinds == _LEGEND][0]
    value = _shots(path, agent, _BEFORE, ships, wanted, entities[kinds == _OWN_BALL])
    moves = (_FIRST == LEFT) | (_FIRST == RIGHT)
    aside = np.abs(path[:, -1, 0] - 12)
    return best_by_action(_FIRST, value - 0.1 * (_FIRST == FIRE) - 0.06 * moves - 0.002 * aside)


@numba.njit(cache=True)
def _shots(
    path: np.ndarray, agent: np.ndarray, before: np.ndarray, ships: np.ndarray, wanted: np.ndarray, balls: np.ndarray
) -> np.ndarray:
    """Value [P] of the shot of each plan: 1 for a wanted ship, less the later it is; -1 for another ship hit now."""
    sunk = np.zeros(len(ships), np.bool_)
    ready = 0
    for ball in balls:
        hit = _first_hit(ball[0], ball[1], 0, ships, sunk, 1.0)
        if hit >= 0:
            sunk[hit] = True
        ready = max(ready, _RELOADING_STEPS - int(ball[1] - agent[1]))
    value = np.zeros(len(path))
    for p in range(len(path)):
        steps = before[p]
        x = agent[0] if steps == 0 else path[p, steps - 1, 0]
        hit = _first_hit(x, agent[1], steps, ships, sunk, _POSSIBLE_HIT)
        if hit < 0 or steps < ready:
            continue
        if not wanted[hit]:
            value[p] = -1.0 if steps == 0 else 0.0
        elif _first_hit(x, agent[1], steps, ships, sunk, _SURE_HIT) == hit:
            value[p] = 0.9**steps
    return value


@numba.njit(cache=True)
def _first_hit(x: float, y: float, after: int, ships: np.ndarray, sunk: np.ndarray, width: float) -> int:
    """The ship that a ball fired upwards from (x, y) after some steps hits first; -1 if none."""
    first, fly_first = -1, np.inf
    for n in range(len(ships)):
        ship = ships[n]
        fly = ship[1] - y
        if sunk[n] or fly < 0 or fly >= fly_first:
            continue
        if abs(ship[0] + ship[2] * (after + fly) - x) < width * (ship[4] + _BALL_RADIUS):
            first, fly_first = n, fly
    return first
