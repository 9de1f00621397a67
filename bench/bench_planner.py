"""Benchmark of the simulator and the planner, in steps per second: pytest bench/bench_planner.py

Compares the simulator, which draws its frames, with copies that do not, after a check for equal rewards and episode
ends; and measures reactive experts, and planners by number of workers. Rows go to results/planner.jsonl. Needs the
original simulator.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bcvlr_fast.experts import simulator
from bcvlr_fast.experts.planner import plan
from bcvlr_fast.experts.procgen import REACTIVE
from bcvlr_fast.experts.search import SEARCHES
from bcvlr_fast.system.host import usable_cores
from rows import report

pytestmark = pytest.mark.skipif(simulator.folder() is None, reason="Procgen's simulator is not installed")
_COPIES, _STEPS, _TURNS = 64, 100, 5
_LEVEL = 300_000
_DECIDED_S, _PLANNED_S = 8.0, 40.0


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a separate process without EnvPool."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _simulate(game: str, draws: bool) -> tuple[float, float, float, bytes]:
    """(us per step, us to save, us to restore a state, rewards and ends) of 64 copies on one core."""
    copies = simulator.Simulator(game, _COPIES, _LEVEL, draws=draws)
    actions = np.random.default_rng(0).integers(15, size=(_STEPS, _COPIES))
    outcomes = []
    start = time.perf_counter()
    for row in actions:
        reward, ended, _ = copies.step(row)
        outcomes.append(reward.tobytes() + ended.tobytes())
    stepped = time.perf_counter()
    states = [copies.save(i) for i in range(_COPIES)]
    saved = time.perf_counter()
    for i, state in enumerate(states):
        copies.restore(state, i)
    restored = time.perf_counter()
    times = (stepped - start) / actions.size, (saved - stepped) / _COPIES, (restored - saved) / _COPIES
    return times[0] * 1e6, times[1] * 1e6, times[2] * 1e6, b"".join(outcomes)


@pytest.mark.parametrize("game", sorted([*SEARCHES, *REACTIVE]))
def test_copies_that_do_not_draw_are_faster(game: str) -> None:
    assert simulator.PAINTER.exists(), "built without a C compiler: there is nothing to compare"
    turns = [(apart(_simulate, game, True), apart(_simulate, game, False)) for _ in range(_TURNS)]
    assert all(drawing[3] == ours[3] for drawing, ours in turns)
    ratio = statistics.median(drawing[0] / ours[0] for drawing, ours in turns)
    step, save, restore = (statistics.median(ours[i] for _, ours in turns) for i in range(3))
    row = {"what": "simulator", "game": game, "step_us": step, "save_us": save, "restore_us": restore}
    report("planner", {**row, "times_drawing": ratio})


def _decisions(game: str) -> tuple[float, float]:
    """(steps per second, fraction of the time that the scores take) of a reactive expert on one core."""
    world, expert = simulator.Simulator(game, 1, _LEVEL), REACTIVE[game]
    expert.scores(world.view())  # compiled
    played, scoring, start = 0, 0.0, time.perf_counter()
    while time.perf_counter() - start < _DECIDED_S:
        seen, begun = world.view(), time.perf_counter()
        scores = expert.scores(seen)
        scoring += time.perf_counter() - begun
        world.step(int(scores.argmax()))
        played += 1
    whole = time.perf_counter() - start
    return played / whole, scoring / whole


@pytest.mark.parametrize("game", sorted(REACTIVE))
def test_reactive_experts(game: str) -> None:
    rate, scoring = apart(_decisions, game)
    report("planner", {"what": "reactive", "game": game, "steps_per_s": rate, "scoring": scoring})


def _planned(game: str, workers: int) -> float:
    with plan(game, _LEVEL, workers) as episodes:
        next(episodes)  # the workers have started
        start, played = time.perf_counter(), 0
        while time.perf_counter() - start < _PLANNED_S:
            played += len(next(episodes).actions)
        return played / (time.perf_counter() - start)


@pytest.mark.parametrize("game", ["bigfish", "coinrun"])
def test_planning_by_cores(game: str) -> None:
    one = _planned(game, 1)
    for workers in sorted({1, usable_cores()}):
        rate = one if workers == 1 else _planned(game, workers)
        report(
            "planner", {"what": "cores", "game": game, "workers": workers, "steps_per_s": rate, "times_one": rate / one}
        )
