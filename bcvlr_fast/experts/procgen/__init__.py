"""Reactive experts of Procgen: functions of what a viewer can see, which answer in any state of a game."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bcvlr_fast.experts.procgen import (
    bigfish,
    bossfight,
    caveflyer,
    chaser,
    dodgeball,
    fruitbot,
    leaper,
    miner,
    plunder,
    starpilot,
)
from bcvlr_fast.experts.simulator import View


class Reactive(NamedTuple):
    """A reactive expert."""

    scores: Callable[[View], np.ndarray]
    """Scores [15] float64 of the next action, -inf for actions that the expert never takes."""
    temperature: float
    """Scores whose difference is well below this are equally good."""

    def regrets(self, seen: View) -> np.ndarray:
        """By how much [15] each action is worse than the best one, in units of the temperature, up to 10."""
        scores = self.scores(seen)
        return np.minimum((scores.max() - scores) / self.temperature, _MAX_REGRET)


_MAX_REGRET = 10.0
REACTIVE = {
    module.__name__.rpartition(".")[2]: Reactive(module.scores, module.TEMPERATURE)
    for module in (bigfish, bossfight, caveflyer, chaser, dodgeball, fruitbot, leaper, miner, plunder, starpilot)
}
"""Reactive experts by game."""
