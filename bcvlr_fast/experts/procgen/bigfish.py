"""Bigfish: drawn to the fish that it can eat, driven away from larger ones and from the sides, where new ones come in.

A frame shows which way a fish swims, but not how fast: all are taken to have the same speed. The sum of the forces
changes little where a frame changes little, as a network needs it that is to learn the rule.
"""

from __future__ import annotations

import numpy as np

from bcvlr_fast.experts.procgen.motion import MOVES
from bcvlr_fast.experts.simulator import IDLE, View

TEMPERATURE = 0.15
_FISH = 2
_FISH_SPEED = 0.24
"""The median; between 0.15 and 0.4 in the game."""
_SIDE = 20.0
_AHEAD_STEPS = np.array([0.0, 4.0, 8.0, 12.0])
"""When the places of fish count."""
_SMALLER_REACH, _LARGER_REACH, _LARGER_FORCE = 3.0, 1.0, 8.0
_FROM_SIDE, _SIDE_FORCE = 3.0, 0.3
_IDLE_SCORE = 0.02


def scores(seen: View) -> np.ndarray:
    """Scores [15] of the next action: the part of the force in its direction."""
    entities, kinds = seen.entities[:, :6].astype(np.float64), seen.kinds
    agent, fish = entities[0], entities[kinds == _FISH]
    ahead = _FISH_SPEED * np.sign(fish[:, 2, None]) * _AHEAD_STEPS
    x, y = fish[:, 0, None] + ahead - agent[0], np.broadcast_to(fish[:, 1, None] - agent[1], ahead.shape)
    gap = np.maximum(0, np.maximum(np.abs(x), np.abs(y)) - agent[4] - fish[:, 4, None])
    is_smaller = fish[:, 4, None] <= agent[4]
    strength = np.where(is_smaller, np.exp(-gap / _SMALLER_REACH), -_LARGER_FORCE * np.exp(-gap / _LARGER_REACH))
    strength *= np.abs(agent[0] + x - _SIDE / 2) < _SIDE / 2 + 1
    strength /= len(_AHEAD_STEPS) * (np.hypot(x, y) + 1e-6)
    inside = agent[4] + _FROM_SIDE
    force_x = (strength * x).sum() + _SIDE_FORCE * (max(0.0, inside - agent[0]) - max(0.0, agent[0] - (_SIDE - inside)))
    force_y = (strength * y).sum()
    best = np.full(15, -np.inf)
    best[IDLE] = _IDLE_SCORE
    for action, (dx, dy) in MOVES.items():
        best[action] = (force_x * dx + force_y * dy) / np.hypot(dx, dy)
    return best
