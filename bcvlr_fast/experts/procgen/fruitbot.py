"""Fruitbot: the best way up through the gaps of the walls, over the fruit and past the other food."""

from __future__ import annotations

import numba
import numpy as np

from bcvlr_fast.experts.simulator import IDLE, LEFT, RIGHT, View

TEMPERATURE = 0.1
_WALL, _OTHER_FOOD, _FRUIT = 1, 4, 7
_WIDTH = 10.0
_RISE = 0.139
"""Height that the robot rises in a step."""
_ROWS = 60
_CELL = 0.125
_MAX_CELLS = 4
"""Cells that the robot moves to the side in a step."""
_MARGIN = 0.2


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action."""
    entities, kinds = seen.entities[:, :6].astype(np.float64), seen.kinds
    agent = entities[0]
    near = np.abs(entities[:, 1] - agent[1] - 4) < 7
    values = _values(agent, entities[near], kinds[near])
    best = np.full(15, -np.inf)
    for action, direction in ((LEFT, -1), (IDLE, 0), (RIGHT, 1)):
        speed = 0.45 * agent[2] + 0.3825 * direction
        x = np.clip(agent[0] + speed / 0.55, agent[4], _WIDTH - agent[4])  # where it comes to rest
        best[action] = values[round(x / _CELL)] + 0.08 * (action == IDLE)
    return best


@numba.njit(cache=True)
def _values(agent: np.ndarray, entities: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Values [cells] of places in the next row: the best sum of rewards on a way up, by dynamic programming."""
    cells = int(_WIDTH / _CELL) + 1
    value = np.zeros(cells)
    for row in range(_ROWS, 0, -1):
        y = agent[1] + row * _RISE
        above, value = value, np.full(cells, -np.inf)
        for i in range(cells):
            for j in range(max(0, i - _MAX_CELLS), min(cells, i + _MAX_CELLS + 1)):
                value[i] = max(value[i], 0.995 * above[j] - 0.01 * abs(i - j))
            if not agent[4] <= i * _CELL <= _WIDTH - agent[4]:
                value[i] -= 0.3
        for n in range(len(entities)):
            each, kind = entities[n], kinds[n]
            over = abs(y - each[1]) - each[5] - agent[5]
            reached = 0 <= y - each[1] < _RISE
            for i in range(cells):
                beside = abs(i * _CELL - each[0]) - each[4] - agent[4]
                if kind == _FRUIT and reached and beside < -0.1:
                    value[i] += 1.5
                elif kind in (_WALL, _OTHER_FOOD) and max(over, beside) < 0:
                    value[i] -= 30.0 if kind == _WALL else 2.0
                elif kind in (_WALL, _OTHER_FOOD) and max(over, beside) < _MARGIN:
                    value[i] -= (1.0 if kind == _WALL else 0.3) * (1 - max(over, beside) / _MARGIN)
    return value
