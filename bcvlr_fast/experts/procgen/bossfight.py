"""Bossfight: keep away from where bullets, barriers and the boss will be, and fire from below the boss."""

from __future__ import annotations

import numpy as np

from bcvlr_fast.experts.procgen.motion import Plans, danger, follow
from bcvlr_fast.experts.simulator import FIRE, View

TEMPERATURE = 0.1
_BOSS, _BULLET, _REFLECTED_BULLET, _BARRIER = 2, 4, 6, 7
_LOW, _HIGH = np.array([0.75, 0.57]), np.array([19.25, 19.4])
_PLANS = Plans(16, FIRE)


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action."""
    agent, kinds = seen.entities[0].astype(np.float64), seen.kinds
    path = follow(agent, _PLANS.moves, 0.45, 0.3825, _LOW, _HIGH)
    harmful = np.isin(kinds, (_BOSS, _BULLET, _REFLECTED_BULLET, _BARRIER))
    obstacles = seen.entities[harmful, :6].astype(np.float64)
    near = danger(path, agent[4:6], obstacles, 1.0, 0.5)
    boss = seen.entities[kinds == _BOSS]
    boss_x = boss[0, 0] if len(boss) else 10.0
    end = path[:, -1]
    beside = np.maximum(0, np.abs(end[:, 0] - boss_x) - 1.5)
    above = np.maximum(0, end[:, 1] - 1.5)
    return _PLANS.best_by_action(-4 * near - 0.045 * beside - 0.075 * above - 0.3 * (_PLANS.first != FIRE))
