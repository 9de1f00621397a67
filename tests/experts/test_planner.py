"""The simulator, both planners, and replays that EnvPool plays back."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcvlr_fast.envs import PROCGEN_GAMES
from bcvlr_fast.envs.procgen import Procgen
from bcvlr_fast.experts import replays, simulator
from bcvlr_fast.experts.planner import Planned, _ahead, plan
from bcvlr_fast.experts.procgen import REACTIVE
from bcvlr_fast.experts.replays import Replays
from bcvlr_fast.experts.search import SEARCHES
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.workers import worker_pool
from helpers.commands import invoke, refusal, run

pytestmark = pytest.mark.skipif(simulator.folder() is None, reason="Procgen's simulator is not installed")
LEVEL = 77


@pytest.fixture(scope="module")
def apart() -> Iterator[Callable[..., Any]]:
    """Function that runs another one in a process without EnvPool: apart(function, arguments)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool.apply


def random_play(game: str, steps: int) -> tuple[list[tuple[float, bool]], bool]:
    """(reward and end of each step, whether restored copies behave the same) under fixed random actions."""
    world = simulator.Simulator(game, 1, LEVEL)
    copies = simulator.Simulator(game, 3, LEVEL + 1)
    rng = np.random.default_rng(0)
    outcomes, same = [], True
    for step in range(steps):
        if step % 10 == 0:
            state = world.save()
            for copy in range(3):
                copies.restore(state, copy)
        action = int(rng.integers(15))
        reward, ended, completed = world.step(action)
        others = copies.step(action)
        for one, three in zip((reward, ended, completed), others, strict=True):
            same &= bool((one == three).all())
        outcomes.append((float(reward[0]), bool(ended[0])))
        if ended[0]:
            break
    return outcomes, same


@pytest.mark.parametrize("game", PROCGEN_GAMES)
def test_the_simulator_plays_like_envpool_and_restores_its_states(apart: Callable[..., Any], game: str) -> None:
    outcomes, same = apart(random_play, (game, 150))
    assert same
    env = Procgen(game, 1, seed=0, level=LEVEL)
    env.reset()
    rng = np.random.default_rng(0)
    total = 0.0
    for reward, ended in outcomes:
        step = env.step(np.array([rng.integers(15)]))
        total += reward
        assert bool(step.ended[0]) == ended
    assert float(env._episodes.score[0] if not outcomes[-1][1] else env.pop_episodes()[0].score) == pytest.approx(total)


def agent_of(game: str) -> tuple[np.ndarray, np.ndarray, int]:
    """(motion of the agent after steps to the right, kinds of entities, number of grid objects), read by `view`."""
    world = simulator.Simulator(game, 1, LEVEL)
    before = simulator.view(world.save())
    for _ in range(3):
        world.step(7)
    after = simulator.view(world.save())
    return after.entities[0, :2] - before.entities[0, :2], before.kinds.copy(), int((before.grid != 100).sum())


def test_a_view_reads_places_kinds_and_walls(apart: Callable[..., Any]) -> None:
    moved, kinds, walls = apart(agent_of, ("coinrun",))
    assert moved[0] > 0.2
    assert kinds[0] == 0
    assert walls > 1000


def test_every_game_has_one_planner() -> None:
    assert sorted([*SEARCHES, *REACTIVE]) == sorted(PROCGEN_GAMES)


@pytest.mark.parametrize(("game", "expected"), [("maze", 10.0), ("coinrun", 10.0), ("heist", 10.0)])
def test_a_search_completes_levels_and_does_not_depend_on_the_workers(game: str, expected: float) -> None:
    def played(workers: int) -> list[Planned]:
        with plan(game, LEVEL, workers) as planned:
            return [next(planned) for _ in range(4)]

    one, two = played(1), played(2)
    assert [p.level for p in one] == [p.level for p in two] == list(range(LEVEL, LEVEL + 4))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
        assert a.episode_return == expected


def test_the_command_plans_verifies_continues_and_feeds_a_recording(tmp_path: Path) -> None:
    file = tmp_path / "maze.npz"
    command = ["expert", "--env", "procgen:maze", "--planner", "--out", str(file)]
    done = run(*command, "--frames", "150")
    assert done.returncode == 0, done.stderr
    first = replays.load_replays(file)
    assert first.frames >= 150
    assert "every episode has the same end and return in EnvPool as in its replay" in done.stdout
    done = run(*command, "--frames", "300")
    assert done.returncode == 0, done.stderr
    more = replays.load_replays(file)
    assert more.frames >= 300
    np.testing.assert_array_equal(more.level[: len(first.level)], first.level)
    np.testing.assert_array_equal(more.actions[: len(first.actions)], first.actions)
    out = str(tmp_path / "data")
    done = run("record", "--env", "procgen:maze", "--replays", str(file), "--out", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "maze.npz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --planner"),
        (["--planner", "--env", "procgen:maz"], "did you mean 'maze'"),
        (["--planner", "--frames", "0"], "frames: expected 1 .."),
        (["--planner", "--out", "film.mp4"], "out: expected a file named .npz"),
        (["--planner", "--out", "text.npz"], "not expert replays"),
        (["--planner", "--out", "other.npz"], "starts with level 5, got 10000"),
        (["--planner", "--out", "maze.npz"], "of procgen:maze, expected procgen:bossfight"),
        (["--ppo", "--start-from", "maze.npz"], "of procgen:maze, expected procgen:bossfight"),
    ],
)
def test_bad_input_is_a_one_line_error(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.npz").write_text("hello")
    one = np.array([5], np.int32)
    for game, file in (("bossfight", "other.npz"), ("maze", "maze.npz")):
        Replays(game, one, np.array([2], np.int32), np.zeros(2, np.uint8), np.zeros(1, np.float32)).save(Path(file))
    assert message in refusal(invoke("expert", *arguments))


def test_without_the_simulator_the_error_has_the_command_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BCVLR_FAST_SIMULATOR")
    monkeypatch.setenv("BCVLR_FAST_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"python -m pip install --no-deps .*procgen-mirror==0\.10\.7"):
        simulator.check_installed()


def test_a_simulator_that_does_not_load_ends_the_planning(tmp_path: Path) -> None:
    library = tmp_path / "procgen" / "data" / "prebuilt" / "libenv.so"
    library.parent.mkdir(parents=True)
    library.write_text("no library")
    command = [sys.executable, "-m", "bcvlr_fast.expert", "--env", "procgen:maze", "--planner", "--out", "maze.npz"]
    environment = {**os.environ, "BCVLR_FAST_SIMULATOR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert "error: planner: the simulator does not load" in done.stderr
    assert not (tmp_path / "maze.npz").exists()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_ends_the_planning() -> None:
    def plan() -> None:
        with worker_pool(2, died="no memory") as pool:
            pool.submit(_die)
            for _ in _ahead(pool, "maze", LEVEL, 2):
                pass

    with pytest.raises(UserError, match="no memory"):
        plan()


def test_one_process_does_not_have_both_simulators() -> None:
    code = "import envpool; from bcvlr_fast.experts.simulator import Simulator; Simulator('maze', 1, 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "one process cannot have both" in done.stderr


def test_the_change_rate_counts_within_episodes() -> None:
    lengths, actions = np.array([3, 4], np.int32), np.array([1, 1, 2, 5, 5, 5, 5], np.uint8)
    recorded = Replays("maze", np.array([0, 1], np.int32), lengths, actions, np.zeros(2, np.float32))
    assert recorded.change_rate == pytest.approx(1 / 5)
    assert recorded.frames == 9
