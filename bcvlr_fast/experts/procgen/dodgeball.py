"""Dodgeball: keep away from walls, balls and enemies, throw where an enemy will be hit, and leave by the open door.

A frame does not show how balls and enemies move, so that they are taken to stay where they are.
"""

from __future__ import annotations

import numba
import numpy as np

from bcvlr_fast.experts.procgen.motion import Plans, danger, distances, follow
from bcvlr_fast.experts.simulator import FIRE, View

TEMPERATURE = 0.03
_WALL, _OWN_BALL, _ENEMY, _DOOR, _BALL = 1, 3, 4, 5, 6
_SIDE = 20.0
_CELL, _CELLS = 0.5, 40
_BALL_RADIUS, _BALL_SPEED = 0.5, 0.5
_RELOADING_STEPS = 7
_FAR = 60.0
_ROTATION = 13  # field of an entity
_PLANS = Plans(16, FIRE)


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action."""
    entities, kinds = seen.entities[:, :6].astype(np.float64), seen.kinds
    agent = entities[0]
    entities[np.isin(kinds, (_ENEMY, _BALL)), 2:4] = 0
    walls, enemies, doors = (entities[kinds == kind] for kind in (_WALL, _ENEMY, _DOOR))
    path = follow(agent, _PLANS.moves, 0.45, 0.3375, agent[4:6], _SIDE - agent[4:6])
    near = np.zeros(len(path))
    for obstacles, margin in ((entities[kinds == _BALL], 0.6), (walls, 0.3), (enemies, 1.5)):
        near = np.maximum(near, danger(path, agent[4:6], obstacles, margin, 0.5))
    facing = float(seen.entities[0, _ROTATION])
    heading = np.where(_PLANS.moving_steps[:, None] == 0, np.round([np.cos(-facing), np.sin(-facing)]), _PLANS.heading)
    hit = _throws(path, agent, heading, _PLANS.moving_steps, walls, enemies, entities[kinds == _OWN_BALL])
    distance = _distances(agent, walls, enemies, doors)
    cells = (path / _CELL).astype(int).clip(0, _CELLS - 1)
    way = distance[cells[..., 1], cells[..., 0]].mean(axis=1)
    return _PLANS.best_by_action(-4 * near + hit - 0.1 * way - 0.1 * ((_PLANS.first == FIRE) & (hit == 0)))


@numba.njit(cache=True)
def _throws(
    path: np.ndarray,
    agent: np.ndarray,
    heading: np.ndarray,
    before: np.ndarray,
    walls: np.ndarray,
    enemies: np.ndarray,
    balls: np.ndarray,
) -> np.ndarray:
    """Value [P] of a throw in the direction `heading` [P, 2] after some steps [P]: below 1 for a hit, 0 for none."""
    plans, horizon = path.shape[:2]
    doomed = np.zeros(len(enemies), np.bool_)
    ready = 0.0
    for ball in balls:
        for n in range(len(enemies)):
            if _hits(ball, enemies[n], 0.3, walls) > 0:
                doomed[n] = True
        flown = max(abs(ball[0] - agent[0]), abs(ball[1] - agent[1])) / _BALL_SPEED
        ready = max(ready, _RELOADING_STEPS - flown)
    value = np.zeros(plans)
    thrown = np.zeros(4)
    for p in range(plans):
        steps = min(before[p], horizon)
        if steps < ready:
            continue
        thrown[:2] = agent[:2] if steps == 0 else path[p, steps - 1]
        thrown[2:] = _BALL_SPEED * heading[p]
        for n in range(len(enemies)):
            fly = 0 if doomed[n] else _hits(thrown, enemies[n], 0.1, walls)
            if fly > 0:
                value[p] = max(value[p], 0.95 ** (steps + 0.5 * fly))
    return value


@numba.njit(cache=True)
def _hits(ball: np.ndarray, enemy: np.ndarray, width: float, walls: np.ndarray) -> int:
    """Steps in which a ball (x, y, vx, vy) hits an enemy before a wall; 0 if it does not."""
    for step in range(1, 40):
        x, y = ball[0] + ball[2] * step, ball[1] + ball[3] * step
        if abs(x - enemy[0]) < enemy[4] + width and abs(y - enemy[1]) < enemy[5] + width:
            return step if _is_free(ball[0], ball[1], x, y, walls) else 0
    return 0


@numba.njit(cache=True)
def _is_free(x: float, y: float, to_x: float, to_y: float, walls: np.ndarray) -> bool:
    """Whether a ball can fly from (x, y) to (to_x, to_y)."""
    pieces = int(max(abs(to_x - x), abs(to_y - y)) / 0.4) + 1
    for piece in range(pieces + 1):
        at_x, at_y = x + (to_x - x) * piece / pieces, y + (to_y - y) * piece / pieces
        for wall in walls:
            if abs(at_x - wall[0]) < wall[4] + _BALL_RADIUS and abs(at_y - wall[1]) < wall[5] + _BALL_RADIUS:
                return False
    return True


@numba.njit(cache=True)
def _distances(agent: np.ndarray, walls: np.ndarray, enemies: np.ndarray, doors: np.ndarray) -> np.ndarray:
    """Cells [40, 40] on the way from each cell to one from which an enemy can be hit; to the door if there is none."""
    free, is_goal = np.zeros((2, _CELLS, _CELLS), np.bool_)
    for j in range(_CELLS):
        for i in range(_CELLS):
            x, y = (i + 0.5) * _CELL, (j + 0.5) * _CELL
            free[j, i] = min(x, _SIDE - x) > agent[4] - 0.3 and min(y, _SIDE - y) > agent[5] - 0.3
            free[j, i] &= not _touches(x, y, agent, walls, 0.1) and not _touches(x, y, agent, enemies, 0.6)
            if free[j, i]:
                is_goal[j, i] = _can_hit(x, y, enemies, walls) if len(enemies) else _touches(x, y, agent, doors, -0.1)
    return distances(free, np.argwhere(is_goal), 1.0, _FAR)


@numba.njit(cache=True)
def _touches(x: float, y: float, agent: np.ndarray, others: np.ndarray, margin: float) -> bool:
    """Whether the agent at (x, y) comes closer than `margin` to one of others [N, 6]."""
    for each in others:
        if abs(x - each[0]) < each[4] + agent[4] + margin and abs(y - each[1]) < each[5] + agent[5] + margin:
            return True
    return False


@numba.njit(cache=True)
def _can_hit(x: float, y: float, enemies: np.ndarray, walls: np.ndarray) -> bool:
    """Whether an enemy can be hit from (x, y), along an axis or a diagonal and from neither too near nor too far."""
    for enemy in enemies:
        off_x, off_y = abs(x - enemy[0]), abs(y - enemy[1])
        in_line = min(off_x, off_y) < 0.7 or abs(off_x - off_y) < 0.7
        if in_line and 3 < max(off_x, off_y) < 9 and _is_free(x, y, enemy[0], enemy[1], walls):
            return True
    return False
