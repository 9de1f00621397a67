"""Starpilot: keep away from where ships and bullets will be, and fire at the height where a ship will be hit.

A frame does not show which ships fly slantwise, so that all are taken to fly straight to the left.
"""

from __future__ import annotations

import numba
import numpy as np

from bcvlr_fast.experts.procgen.motion import Plans, danger, follow, lack
from bcvlr_fast.experts.simulator import FIRE, View

TEMPERATURE = 0.03
_OWN_BULLET, _BULLET, _SHIP = 1, 2, 4
_OWN_BULLET_SPEED = 0.8
_SHIP_SPEED = 0.3
_SIDE = 16.0
_MARGIN, _FADE = 0.6, 0.5
_SURE_HIT = 0.5
"""Distance of a bullet from the middle of a ship, in height, up to which a hit is counted on."""
_NEVER = 1000.0
_PLANS = Plans(16, FIRE)


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action."""
    entities, kinds = seen.entities[:, :6].astype(np.float64), seen.kinds
    agent, ships = entities[0], entities[kinds == _SHIP]
    ships[:, 2:4] = -_SHIP_SPEED, 0
    path = follow(agent, _PLANS.moves, 0.45, 0.3375, agent[4:6], _SIDE - agent[4:6])
    near = danger(path, agent[4:6], entities[kinds == _BULLET], _MARGIN, _FADE)
    near_ships, miss = _aim(path, agent, _PLANS.moving_steps, ships, *_under_way(ships, entities[kinds == _OWN_BULLET]))
    advanced = np.maximum(0, path[:, -1, 0] - 3)
    of_plans = -4 * np.maximum(near, near_ships) - 0.2 * miss - 0.02 * advanced
    return _PLANS.best_by_action(of_plans - 0.1 * (_PLANS.first != FIRE) - 0.005 * _PLANS.moving_steps)


@numba.njit(cache=True)
def _under_way(ships: np.ndarray, bullets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(steps [N] until own bullets under way will have hit each of the ships [N, 6] twice, their number [N])."""
    second, count = np.full(len(ships), _NEVER), np.zeros(len(ships))
    for n in range(len(ships)):
        ship, first = ships[n], _NEVER
        for bullet in bullets:
            steps = (ship[0] - bullet[0]) / (_OWN_BULLET_SPEED + _SHIP_SPEED)
            if steps > -1 and abs(ship[1] - bullet[1]) < ship[5] + bullet[5]:
                count[n] += 1
                second[n] = min(second[n], max(first, steps))
                first = min(first, steps)
    return second, count


@numba.njit(cache=True)
def _aim(
    path: np.ndarray, agent: np.ndarray, moving: np.ndarray, ships: np.ndarray, destroyed: np.ndarray, hits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(danger [P] from the ships [N, 6], by how much [P] the fire of each plan misses the closest ship in height).

    A plan with the path [P, T, 2] fires after its moving steps [P]. Two hits destroy a ship; `destroyed` and `hits` [N]
    are those of bullets under way.
    """
    plans, horizon = path.shape[:2]
    worst, miss = np.zeros(plans), np.full(plans, 6.0)
    for p in range(plans):
        begin = min(moving[p], horizon)
        x, y = (agent[0], agent[1]) if begin == 0 else (path[p, begin - 1, 0], path[p, begin - 1, 1])
        for n in range(len(ships)):
            ship, until = ships[n], destroyed[n]
            fly = (ship[0] - _SHIP_SPEED * begin - x) / (_OWN_BULLET_SPEED + _SHIP_SPEED)
            if until == _NEVER and fly > 0.5:
                off = abs(ship[1] - y) - _SURE_HIT
                if off < 0:
                    until = begin + fly + (1 if hits[n] == 0 else 0)
                if 0 < ship[1] < _SIDE:
                    miss[p] = min(miss[p], max(0.0, off))
            for t in range(min(horizon, int(np.ceil(until - 1)))):
                worst[p] = max(worst[p], lack(path[p, t], agent[4:6], ship, t, horizon, _MARGIN, _FADE))
    return worst, miss
