"""Leaper: jump to where no car will come soon, or to the middle of a log; wait until the way on is clear.

A frame shows which way a car drives, but not how fast, and not which way a log drifts.
"""

from __future__ import annotations

import numpy as np

from bcvlr_fast.experts.procgen.motion import danger
from bcvlr_fast.experts.simulator import DOWN, IDLE, LEFT, RIGHT, UP, View

TEMPERATURE = 0.1
_LOG, _WATER, _CAR = 1, 3, 4
_SIDE = 9.0
_CAR_SPEEDS = np.array([0.03, 0.075, 0.12])
"""The lowest, a medium and the highest speed of cars: all three must be safe."""
_ACTIONS = np.array([UP, IDLE, LEFT, RIGHT, DOWN])
_JUMPS = np.array([[0.0, 1.0], [0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
_WORTH = np.array([1.0, 0.0, -0.25, -0.25, -0.6])
_FLIGHT = np.array([0.4, 0.7, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
"""Fraction of a jump after each step: the frog is in the air for five steps. Then it needs time to leave."""
_CAR_MARGIN, _FADE = 0.35, 0.5
_SURE_LANDING = 0.12
"""Distance from the middle of a log that its drift during a jump does not make dangerous."""
_FAR = 9.0


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action; all are equally good in the air, where the frog cannot be steered."""
    entities, kinds = seen.entities[:, :6].astype(np.float64), seen.kinds
    agent, logs = entities[0], entities[kinds == _LOG]
    best = np.full(15, -np.inf)
    best[_ACTIONS] = 0
    if agent[2:4].any():
        return best
    cars = np.repeat(entities[kinds == _CAR], len(_CAR_SPEEDS), axis=0)
    cars[:, 2] = np.sign(cars[:, 2]) * np.tile(_CAR_SPEEDS, len(cars) // len(_CAR_SPEEDS))
    path = agent[:2] + _FLIGHT[:, None] * _JUMPS[:, None]
    near = danger(path, agent[4:6], cars, _CAR_MARGIN, _FADE)
    best[_ACTIONS] = _WORTH - 4 * near
    for action, jump, (x, y) in zip(_ACTIONS, _JUMPS, path[:, -1], strict=True):
        if not (agent[4] < x < _SIDE - agent[4] and 0 < y < _SIDE):
            best[action] = -_FAR
        elif seen.grid[int(y), int(x)] == _WATER:
            beside = np.abs(logs[np.abs(logs[:, 1] - y) < agent[5], 0] - x).min(initial=1.0)
            best[action] -= 6 * max(0.0, beside - _SURE_LANDING) * jump.any() + 0.8 * max(0.0, 1.5 - min(x, _SIDE - x))
    return best
