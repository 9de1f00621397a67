"""Caveflyer: turn and thrust along the shortest way through the cave, and keep away from what explodes.

Walls do not hurt. A frame shows which way enemies fly, but not how fast: all are taken to have the same speed.
"""

from __future__ import annotations

import itertools
import math

import numba
import numpy as np

from bcvlr_fast.experts.procgen.motion import best_by_action, distances, lack
from bcvlr_fast.experts.simulator import View

TEMPERATURE = 0.05
_GOAL, _OBSTACLE, _TARGET, _ENEMY, _WALL = 1, 2, 3, 5, 8
_ENEMY_SPEED = 0.15
_ANGLE, _TURNING = 13, 14  # fields of an entity: its angle, from up to the right, and the change of it in a step
_TURN = math.radians(7.5)
_BRAKE, _COAST, _THRUST = -0.0165, 0.0, 0.05
_MARGIN, _FADE = 0.4, 0.3
_FAR = 200.0
_STEPS = 20
_HELD_STEPS, _THRUST_STEPS = (1, 2, 3, 5, 8), (0, 4, 10)


def _plans() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first move [P], turns [P, T], accelerations [P, T]) of plans that hold a move, then thrust, then coast."""
    plans = list(itertools.product(range(9), _HELD_STEPS, _THRUST_STEPS))
    turns, accelerations = np.zeros((2, len(plans), _STEPS))
    for n, (move, held, thrust) in enumerate(plans):
        turns[n, :held] = _TURN * (move // 3 - 1)
        accelerations[n, :held] = (_BRAKE, _COAST, _THRUST)[move % 3]
        accelerations[n, held : held + thrust] = _THRUST
    return np.array([move for move, _, _ in plans]), turns, accelerations


_FIRST, _TURNS, _ACCELERATIONS = _plans()


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action."""
    entities, kinds = seen.entities.astype(np.float64), seen.kinds
    agent, goal = entities[0], entities[kinds == _GOAL][0]
    enemies, still = entities[kinds == _ENEMY, :6], entities[np.isin(kinds, (_OBSTACLE, _TARGET)), :6]
    enemies[:, 2:4] = _ENEMY_SPEED * np.sign(enemies[:, 2:4])
    wall = seen.grid == _WALL
    free = ~wall
    free[still[:, 1].astype(int), still[:, 0].astype(int)] = False
    distance = distances(free, goal[None, 1::-1].astype(np.int64), math.sqrt(2), _FAR)
    ship = np.array([*agent[:6], agent[_ANGLE], agent[_TURNING]])
    way, near = _fly(ship, wall, distance, np.concatenate([still, enemies]), _TURNS, _ACCELERATIONS)
    return best_by_action(_FIRST, -0.3 * way - 4 * near)


@numba.njit(cache=True)
def _fly(
    ship: np.ndarray,
    wall: np.ndarray,
    distance: np.ndarray,
    obstacles: np.ndarray,
    turns: np.ndarray,
    accelerations: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(mean distance [P] from the goal over the steps of each plan, danger [P] from obstacles [N, 6]).

    The ship is x, y, vx, vy, rx, ry, angle and its change in a step. A wall stops it in the direction of the wall.
    """
    plans, steps = turns.shape
    way, near, place, size = np.zeros(plans), np.zeros(plans), np.zeros(2), ship[4:6]
    for p in range(plans):
        x, y, vx, vy = ship[:4]
        angle, turning = ship[6:]
        for t in range(steps):
            vx = 0.9 * (vx + accelerations[p, t] * math.sin(angle))
            vy = 0.9 * (vy + accelerations[p, t] * math.cos(angle))
            turning = 0.5 * turning + turns[p, t]
            angle += turning
            vx = 0.0 if _hits(wall, x + vx, y, size) else vx
            x += vx
            vy = 0.0 if _hits(wall, x, y + vy, size) else vy
            y += vy
            place[:] = x, y
            way[p] += _remaining(distance, x, y) / steps
            for obstacle in obstacles:
                near[p] = max(near[p], lack(place, size, obstacle, t, steps, _MARGIN, _FADE))
    return way, near


@numba.njit(cache=True)
def _hits(wall: np.ndarray, x: float, y: float, size: np.ndarray) -> bool:
    """Whether a ship of half extents `size` [2] at (x, y) touches a wall or the edge of the level."""
    for a in (-0.98, 0.98):
        for b in (-0.98, 0.98):
            i, j = int(np.floor(y + b * size[1])), int(np.floor(x + a * size[0]))
            if not (0 <= i < wall.shape[0] and 0 <= j < wall.shape[1]) or wall[i, j]:
                return True
    return False


@numba.njit(cache=True)
def _remaining(distance: np.ndarray, x: float, y: float) -> float:
    """Distance of (x, y) from the goal by way of a cell close to it."""
    best, i, j = _FAR, int(y), int(x)
    for b in range(max(0, i - 1), min(distance.shape[0], i + 2)):
        for a in range(max(0, j - 1), min(distance.shape[1], j + 2)):
            best = min(best, distance[b, a] + math.hypot(x - a - 0.5, y - b - 0.5))
    return best
