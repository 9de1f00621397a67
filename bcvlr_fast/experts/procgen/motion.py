"""Straight-line prediction: how close each of some plans of the agent comes to moving obstacles."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numba
import numpy as np

from bcvlr_fast.experts.simulator import IDLE

MOVES = {0: (-1, -1), 1: (-1, 0), 2: (-1, 1), 3: (0, -1), 5: (0, 1), 6: (1, -1), 7: (1, 0), 8: (1, 1)}
"""Directions (x, y) of Procgen's moves; y points up."""
_HELD_STEPS = (1, 2, 3, 5, 8)
_Move = tuple[int, int]  # action, steps


class Plans:
    """P plans of T steps: rest at once, hold a move and rest, or take one move after another and rest."""

    def __init__(self, steps: int, rest: int = IDLE) -> None:
        """`rest` is the action after the moves, such as fire."""
        held = [((action, count),) for action in MOVES for count in _HELD_STEPS]
        turns = [((first, count), (then, 3)) for first, then in itertools.permutations(MOVES, 2) for count in (2, 4)]
        plans: list[tuple[_Move, ...]] = [((rest, 0),), *held, *turns]
        self.first = np.array([plan[0][0] for plan in plans])
        """[P]: first action."""
        self.moving_steps = np.array([sum(count for _, count in plan) for plan in plans])
        """[P]: steps until the agent rests."""
        self.heading = np.array([MOVES.get(plan[-1][0], (0, 0)) for plan in plans], np.float64)
        """[P, 2]: direction of the last move."""
        self.moves = np.stack([_directions(plan, steps) for plan in plans])
        """[P, T, 2]: direction of each step."""

    def best_by_action(self, scores: np.ndarray) -> np.ndarray:
        """Scores [15] of actions: that of the best plan that begins with it, from the scores [P] of the plans."""
        return best_by_action(self.first, scores)


def best_by_action(first: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores [15] of actions: the highest of the plans whose first actions are `first` [P]; -inf without a plan."""
    best = np.full(15, -np.inf)
    np.maximum.at(best, first, scores)
    return best


def _directions(plan: Iterable[_Move], steps: int) -> np.ndarray:
    directions, begin = np.zeros((steps, 2)), 0
    for action, count in plan:
        directions[begin : begin + count] = MOVES.get(action, (0, 0))
        begin += count
    return directions


@numba.njit(cache=True)
def follow(
    agent: np.ndarray, moves: np.ndarray, keep: float, gain: float, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Positions [P, T, 2] of an agent (x, y, vx, vy) that follows the moves [P, T, 2].

    Its speed becomes keep * speed + gain * move, and it stays within `low` and `high` [2].
    """
    plans, steps = moves.shape[:2]
    path = np.empty((plans, steps, 2))
    for p in range(plans):
        for axis in range(2):
            place, speed = agent[axis], agent[2 + axis]
            for t in range(steps):
                speed = keep * speed + gain * moves[p, t, axis]
                following = min(max(place + speed, low[axis]), high[axis])
                speed, place = following - place, following
                path[p, t, axis] = place
    return path


@numba.njit(cache=True)
def distances(free: np.ndarray, goals: np.ndarray, diagonal: float, far: float) -> np.ndarray:
    """Distances [H, W] of cells from the nearest of the goals [N, 2] (row, column) over free cells [H, W], below `far`.

    A diagonal step is `diagonal` long, and only between free cells.
    """
    height, width = free.shape
    distance = np.full((height, width), far)
    queue = [(row, column) for row, column in goals]
    for row, column in queue:
        distance[row, column] = 0
    done = 0
    while done < len(queue):
        i, j = queue[done]
        done += 1
        for b in range(max(0, i - 1), min(height, i + 2)):
            for a in range(max(0, j - 1), min(width, j + 2)):
                further = distance[i, j] + (1.0 if a == j or b == i else diagonal)
                if free[b, a] and free[i, a] and free[b, j] and further < distance[b, a] - 1e-9:
                    distance[b, a] = further
                    queue.append((b, a))
    return distance


@numba.njit(cache=True)
def danger(path: np.ndarray, size: np.ndarray, obstacles: np.ndarray, margin: float, fade: float) -> np.ndarray:
    """Danger [P] of the paths [P, T, 2] of an agent of half extents `size` [2]: the largest `lack` of a margin.

    Obstacles [N, 6] (x, y, vx, vy, rx, ry) move in straight lines.
    """
    plans, steps = path.shape[:2]
    worst = np.zeros(plans)
    for p in range(plans):
        for t in range(steps):
            for obstacle in obstacles:
                worst[p] = max(worst[p], lack(path[p, t], size, obstacle, t, steps, margin, fade))
    return worst


@numba.njit(cache=True)
def lack(
    place: np.ndarray, size: np.ndarray, obstacle: np.ndarray, step: int, steps: int, margin: float, fade: float
) -> float:
    """By how much an agent at `place` [2] in step `step`, counted from 0, is closer to an obstacle than `margin`.

    Counts fully in the first of `steps` steps and `fade` times as much after the last one.
    """
    apart = max(
        abs(place[0] - obstacle[0] - obstacle[2] * (step + 1)) - size[0] - obstacle[4],
        abs(place[1] - obstacle[1] - obstacle[3] * (step + 1)) - size[1] - obstacle[5],
    )
    return (1.0 - (1.0 - fade) * step / steps) * (margin - apart)
