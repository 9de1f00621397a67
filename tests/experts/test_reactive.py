"""Reactive experts: what they foresee is what the simulator does, and they play as well as their cards say."""

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bcvlr_fast.experts import simulator
from bcvlr_fast.experts.paper import PAPER_EXPERT
from bcvlr_fast.experts.planner import plan
from bcvlr_fast.experts.procgen import REACTIVE, miner
from bcvlr_fast.experts.procgen.motion import Plans, danger, follow

pytestmark = pytest.mark.skipif(simulator.folder() is None, reason="Procgen's simulator is not installed")
LEVEL = 77
SIDES = {"bossfight": 20.0, "starpilot": 16.0, "dodgeball": 20.0}
GAINS = {"bossfight": 0.3825, "starpilot": 0.3375, "dodgeball": 0.3375}


@pytest.fixture(scope="module")
def apart() -> Iterator[Callable[..., Any]]:
    """Function that runs another one in a process without EnvPool: apart(function, arguments)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool.apply


@pytest.mark.parametrize("game", sorted(REACTIVE))
def test_it_plays_far_better_than_chance(game: str) -> None:
    """Half of the paper's expert on the mean of three levels; random play has less than a fifth."""
    with plan(game, LEVEL, 2) as planned:
        returns = [next(planned).episode_return for _ in range(3)]
    assert np.mean(returns) > 0.5 * PAPER_EXPERT[game]


def plan_and_path(game: str) -> tuple[np.ndarray, np.ndarray]:
    """(positions [T, 2] of the agent that `follow` foresees for a plan, those in the simulator)."""
    world = simulator.Simulator(game, 1, LEVEL + 3)  # there is room to the left and above in each of the games
    agent = world.view().entities[0].astype(np.float64)
    actions = [1, 1, 1, 5, 5, 4, 4, 4]
    moves = np.zeros((1, len(actions), 2))
    for row, action in zip(moves[0], actions, strict=True):
        row[:] = {1: (-1, 0), 5: (0, 1)}.get(action, (0, 0))
    foreseen = follow(agent, moves, 0.45, GAINS[game], agent[4:6], SIDES[game] - agent[4:6])[0]
    places = []
    for action in actions:
        world.step(action)
        places.append(world.view().entities[0, :2].astype(np.float64))
    return foreseen, np.array(places)


@pytest.mark.parametrize("game", sorted(GAINS))
def test_the_path_of_a_plan_is_the_simulators(apart: Callable[..., Any], game: str) -> None:
    foreseen, places = apart(plan_and_path, (game,))
    np.testing.assert_allclose(foreseen, places, atol=0.02)


def mined(level: int, seed: int) -> list[tuple[np.ndarray, np.ndarray, bool, bool]]:
    """(foreseen grid, grid, foreseen end, end) of each step of a random game of miner."""
    world = simulator.Simulator("miner", 1, level)
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(60):
        seen = world.view()
        grid, agent = seen.grid.astype(np.int8), seen.entities[0, :2].astype(np.int64)
        goal = seen.entities[seen.kinds == 6][0, :2].astype(np.int64)
        direction = int(rng.integers(5))
        ended = miner._step(grid, agent, goal, direction) != miner._PLAYING
        _, end, _ = world.step(miner._ACTIONS[direction])
        steps.append((grid, world.view().grid.astype(np.int8), ended, bool(end[0])))
        if end[0]:
            break
    return steps


@pytest.mark.parametrize("seed", range(4))
def test_miners_grid_changes_as_in_the_game(apart: Callable[..., Any], seed: int) -> None:
    for foreseen, grid, ended, end in apart(mined, (LEVEL + seed, seed)):
        assert ended == end
        if not end:
            np.testing.assert_array_equal(foreseen, grid)


def test_danger_is_the_lack_of_margin_at_the_closest_step() -> None:
    path = np.array([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    obstacle = np.array([[3.0, 0.0, -0.5, 0.0, 0.25, 0.25]])  # comes from the right
    found = danger(path, np.array([0.25, 0.25]), obstacle, 1.0, 1.0)
    # the first path meets it in the last step, where its middle is at 1.5; the second keeps 1.0 away
    np.testing.assert_allclose(found, [1.0 - (0.5 - 0.5), 1.0 - (1.5 - 0.5)])
    halved = danger(path, np.array([0.25, 0.25]), obstacle, 1.0, 0.25)
    assert halved[0] == pytest.approx((1 - 0.75 * 2 / 3) * 1.0)


def test_plans_hold_a_move_or_turn_and_rest() -> None:
    plans = Plans(16, rest=9)
    assert plans.first[0] == 9
    assert not plans.moves[0].any()
    row = int(np.flatnonzero((plans.first == 7) & (plans.moving_steps == 3))[0])
    assert plans.moves[row].tolist() == [[1.0, 0.0]] * 3 + [[0.0, 0.0]] * 13
    best = plans.best_by_action(np.arange(len(plans.first), dtype=float))
    assert best[9] == 0
    assert best[7] == np.flatnonzero(plans.first == 7)[-1]
    assert best[4] == -np.inf
