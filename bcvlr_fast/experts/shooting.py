"""Random shooting with a receding horizon, for Procgen games with frequent rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcvlr_fast.experts.simulator import DOWN, FIRE, IDLE, LEFT, RIGHT, UP, Simulator

MOVES = (LEFT, DOWN, IDLE, UP, RIGHT)


@dataclass(frozen=True)
class Shooting:
    """Settings of the planner in one game."""

    horizon_steps: int
    """Length of a plan."""
    executed_steps: int
    """Steps of the best plan that are taken before the next decision."""
    change_cost: float
    """Penalty for a change of the action, in units of reward."""
    fire_bonus: float | None = None
    """Bonus for a shot, in units of reward; None in games without shots."""
    moves: tuple[int, ...] = MOVES
    """Moves to plan with. Without diagonals there are fewer equivalent plans, which makes play easier to imitate."""
    candidates: int = 64
    """Plans per decision."""
    persistence: float = 0.9
    """Probability that a random plan repeats its action in the next step."""
    discount: float = 0.99
    end_cost: float = 10.0
    """Penalty for an end without a completed level, in units of reward."""
    held_fire: bool = True
    """Whether a plan may hold fire; otherwise a shot is a single step, for games with costly shots."""

    @property
    def actions(self) -> np.ndarray:
        """Actions [n] uint8 to plan with: the moves, and fire in games with shots."""
        return np.array(self.moves if self.fire_bonus is None else (*self.moves, FIRE), np.uint8)


class Shooter:
    """Plays one game by planning. `simulator` has one copy per candidate; its states are overwritten."""

    FIRST_ACTION = IDLE

    def __init__(self, simulator: Simulator, settings: Shooting, seed: int) -> None:
        self.simulator = simulator
        self.settings = settings
        self.random = np.random.default_rng(seed)
        self.plan = np.full(settings.horizon_steps, IDLE, np.uint8)

    def decide(self, state: bytes, last_action: int) -> np.ndarray:
        """Actions [executed_steps] uint8 to take from `state`."""
        plans = self._candidates()
        best = plans[self._scores(state, plans, last_action).argmax()]
        executed = self.settings.executed_steps
        self.plan = np.concatenate([best[executed:], np.repeat(best[-1:], executed)])
        return best[:executed]

    def _candidates(self) -> np.ndarray:
        """Plans [candidates, horizon] uint8: the last plan, held actions, mutations of the last, random ones."""
        s = self.settings
        held = np.repeat(s.actions[:, None], s.horizon_steps, axis=1)
        if not s.held_fire and s.fire_bonus is not None:
            held[-1, 1:] = IDLE
        mutated = self._mutations(s.candidates // 4)
        drawn = self._drawn(s.candidates - len(held) - len(mutated) - 1)
        return np.concatenate([self.plan[None], held, mutated, drawn])

    def _drawn(self, count: int) -> np.ndarray:
        s = self.settings
        shape = (count, s.horizon_steps)
        fresh = self.random.choice(s.actions, shape)
        plans = fresh.copy()
        keeps = self.random.random(shape) < s.persistence
        for step in range(1, s.horizon_steps):
            keep = keeps[:, step] & (s.held_fire | (plans[:, step - 1] != FIRE))
            plans[:, step] = np.where(keep, plans[:, step - 1], fresh[:, step])
        return plans

    def _mutations(self, count: int) -> np.ndarray:
        s = self.settings
        plans = np.repeat(self.plan[None], count, axis=0)
        for plan in plans:
            start = self.random.integers(s.horizon_steps)
            action = self.random.choice(s.actions)
            length = self.random.integers(2, 8) if s.held_fire or action != FIRE else 1
            plan[start : start + length] = action
        return plans

    def _scores(self, state: bytes, plans: np.ndarray, last_action: int) -> np.ndarray:
        """Scores [candidates] float64 of plans: discounted reward minus penalties."""
        s = self.settings
        for copy in range(len(plans)):
            self.simulator.restore(state, copy)
        score = np.zeros(len(plans))
        alive = np.ones(len(plans), bool)
        before = np.full(len(plans), last_action, np.uint8)
        for step in range(s.horizon_steps):
            actions = plans[:, step]
            reward, ended, completed = self.simulator.step(actions)
            gain = reward - s.end_cost * (ended & ~completed) - s.change_cost * (actions != before)
            if s.fire_bonus is not None:
                gain = gain + s.fire_bonus * (actions == FIRE)
            score += s.discount**step * alive * gain
            alive &= ~ended
            if not alive.any():
                break
            before = actions
        return score


SHOOTINGS = {
    "bigfish": Shooting(32, 3, 0.03),
    "bossfight": Shooting(40, 2, 0.003, 0.004),
    "chaser": Shooting(32, 3, 0.03),
    "dodgeball": Shooting(56, 3, 0.03, -0.002),
    "fruitbot": Shooting(32, 3, 0.03, -0.01, (LEFT, IDLE, RIGHT), candidates=128),
    "miner": Shooting(48, 3, 0.01),
    "plunder": Shooting(32, 3, 0.03, -0.02, (LEFT, IDLE, RIGHT), held_fire=False),
    "starpilot": Shooting(32, 3, 0.06, 0.002),
}
