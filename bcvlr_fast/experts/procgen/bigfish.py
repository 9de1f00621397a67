"""Bigfish: keep away from where larger fish will be and from the sides, where new ones come in; eat smaller ones.

A frame shows which way a fish swims, but not how fast: all are taken to have the same speed.
"""

from __future__ import annotations

import numba
import numpy as np

from bcvlr_fast.experts.procgen.motion import Plans, danger, follow
from bcvlr_fast.experts.simulator import View

TEMPERATURE = 0.1
_FISH = 2
_FISH_SPEED = 0.24
"""The median; between 0.15 and 0.4 in the game."""
_SIDE = 20.0
_PLANS = Plans(24)


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action."""
    entities, kinds = seen.entities[:, :6].astype(np.float64), seen.kinds
    agent, fish = entities[0], entities[kinds == _FISH]
    path = follow(agent, _PLANS.moves, 0.45, 0.225, agent[4:6], _SIDE - agent[4:6])
    fish[:, 2] = _FISH_SPEED * np.sign(fish[:, 2])
    smaller = fish[:, 4] <= agent[4]
    near = danger(path, agent[4:6], fish[~smaller], 0.5, 0.5)
    x = path[:, :, 0]
    aside = np.maximum(0, 4 - np.minimum(x, _SIDE - x)).mean(axis=1)
    return _PLANS.best_by_action(-4 * near - 0.2 * aside + _meals(path, agent, fish[smaller]))


@numba.njit(cache=True)
def _meals(path: np.ndarray, agent: np.ndarray, fish: np.ndarray) -> np.ndarray:
    """Value [P] of the fish [N, 6] that are eaten on the way, the sooner the better, and of being close to another."""
    plans, steps = path.shape[:2]
    value = np.zeros(plans)
    for p in range(plans):
        closest = 12.0
        for each in fish:
            eaten = False
            for t in range(steps):
                apart_x = abs(path[p, t, 0] - each[0] - each[2] * (t + 1)) - agent[4] - each[4]
                apart_y = abs(path[p, t, 1] - each[1] - each[3] * (t + 1)) - agent[5] - each[5]
                if max(apart_x, apart_y) < -0.05:
                    value[p] += 0.5 * 0.97**t
                    eaten = True
                    break
            if not eaten and -1 < each[0] + each[2] * (steps + 6) < _SIDE + 1:
                x = abs(path[p, steps - 1, 0] - each[0] - each[2] * (steps + 3))
                closest = min(closest, max(x, abs(path[p, steps - 1, 1] - each[1])))
        value[p] -= 0.1 * closest
    return value
