"""Procgen through EnvPool, exact interaction counts, and the registry of suites."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bcvlr_fast.data.collector import Collector
from bcvlr_fast.data.replay import Replay
from bcvlr_fast.envs import PROCGEN_GAMES, SUITES, chosen_rendering, make, parse_name, pool, spec
from bcvlr_fast.envs.budget import Budget
from bcvlr_fast.envs.scoring import Turn, play
from bcvlr_fast.envs.stacking import Stacked
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.system.errors import Interrupted, UserError

# Mean returns of random play, from constants in LAPO's code, for games with a small variance.
PUBLISHED_RANDOM = {"bossfight": 0.05, "chaser": 0.66, "dodgeball": 0.61}


@pytest.mark.parametrize("game", PROCGEN_GAMES)
def test_every_game_steps(game: str) -> None:
    env = make(f"procgen:{game}", num_envs=2, seed=0)
    frames = env.reset()
    assert frames.shape == (2, 3, 64, 64)
    assert frames.dtype == np.uint8
    assert frames.std() > 0
    step = env.step(np.array([7, 1]))
    assert step.frames.shape == (2, 3, 64, 64)
    assert not step.ended.any()
    env.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("procgen:bosfight", "did you mean 'bossfight'"),
        ("procgn:bossfight", "did you mean 'procgen:bossfight'"),
        ("bossfight", "expected suite:task"),
        ("", "expected suite:task"),
        ("a:b:c", "expected suite:task"),
        ("procgen:../x", "is not a task of procgen"),
        ("procgen:böss", "is not a task of procgen"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_name(name)


@pytest.mark.parametrize(
    "actions",
    [np.array([0, 15]), np.array([-1, 0]), np.array([0]), np.array([0.0, 1.0]), np.array([[0], [1]])],
)
def test_bad_actions_are_refused_before_the_step(actions: np.ndarray) -> None:
    env = make("procgen:bossfight", num_envs=2, seed=0)
    env.reset()
    with pytest.raises(ValueError, match="actions: expected"):
        env.step(actions)


def test_steps_equal_envpools_own_without_its_reset_calls() -> None:
    """Frames, rewards and levels equal those of plain EnvPool, apart from its extra calls after an episode ends."""
    import envpool

    num_envs, steps = 4, 400
    env = make("procgen:bossfight", num_envs, seed=5)
    plain = envpool.make_gymnasium("BossfightEasy-v0", num_envs=num_envs, seed=5)
    actions = np.random.default_rng(0).integers(0, 15, (num_envs, steps))
    ours = [[f] for f in env.reset()]
    scores = []
    for t in range(steps):
        step = env.step(actions[:, t])
        first = iter(step.first_frames)
        for n in range(num_envs):
            ours[n].append(step.frames[n])
            if step.ended[n]:
                ours[n].append(next(first))
        scores += env.pop_episodes()

    frames, _ = plain.reset()
    theirs = [[f] for f in frames]
    taken, pending = np.zeros(num_envs, int), np.zeros(num_envs, bool)
    returns, finished = np.zeros(num_envs), []
    while taken.min() < steps:
        chosen = [0 if pending[n] else actions[n, min(taken[n], steps - 1)] for n in range(num_envs)]
        frames, reward, terminated, truncated, info = plain.step(np.array(chosen, np.int32))
        assert ((info["elapsed_step"] == 0) == pending).all()
        for n in range(num_envs):
            over = not pending[n] and taken[n] >= steps
            if over:
                continue
            theirs[n].append(frames[n])
            taken[n] += not pending[n]
            returns[n] = 0 if pending[n] else returns[n] + reward[n]
            if terminated[n] or truncated[n]:
                finished.append((n, float(returns[n])))
        pending = terminated | truncated
    for n in range(num_envs):
        length = min(len(ours[n]), len(theirs[n]))
        assert length > steps
        np.testing.assert_array_equal(np.stack(ours[n][:length]), np.stack(theirs[n][:length]))
    assert len(scores) > 10
    assert sorted((s.env, s.score) for s in scores) == sorted(finished)


def test_interactions_are_counted_exactly() -> None:
    """1,000 steps of 64 environments end in a partial call; resets do not count."""
    budget = 1_000
    device = torch.device("cpu")

    env = make("procgen:bossfight", 64, seed=3)
    first = Collector(Budget(env, budget), Replay(2 * budget, 64, spec("procgen:bossfight"), device))
    rng = np.random.default_rng(1)
    calls = 0
    while first.interactions < budget:
        envs = first.envs_to_step(budget)
        first.step(rng.integers(0, 15, len(envs)), envs)
        calls += 1
    assert first.interactions == budget
    assert calls == 16
    assert len(first.state_dict()["actions"]) == budget
    assert first.replay.acted.sum() == budget
    lengths = sum(s.length_steps for s in env.pop_episodes())
    assert lengths + env._episodes.length_steps.sum() == budget  # type: ignore[attr-defined]


@pytest.mark.parametrize("game", PUBLISHED_RANDOM)
def test_random_returns_match_the_published_ones(game: str) -> None:
    rng = np.random.default_rng(0)
    env = make(f"procgen:{game}", num_envs=96, seed=11)
    score = play(env, lambda turn: rng.integers(15, size=len(turn.frames)), episodes=288)
    assert score.episodes == 288
    assert abs(score.mean - PUBLISHED_RANDOM[game]) < 4 * score.standard_error + 0.02


def test_evaluation_fixes_the_episodes_of_each_environment() -> None:
    env = make("procgen:bossfight", num_envs=7, seed=0)
    counted = np.zeros(7, int)
    pop = env.pop_episodes

    def counting() -> list:
        scores = pop()
        for s in scores:
            counted[s.env] += 1
        return scores

    env.pop_episodes = counting  # type: ignore[method-assign]
    begun = np.zeros(7, int)

    def idle(turn: Turn) -> np.ndarray:
        begun[turn.envs] += turn.first
        return np.full(len(turn.frames), 4)

    score = play(env, idle, episodes=16)
    assert score.episodes == 16
    assert counted.tolist() == begun.tolist() == [3, 3, 2, 2, 2, 2, 2]


def test_paper_exceptions_by_game() -> None:
    assert preset("procgen:plunder", "paper").features.reconstruction_weight == 1.0
    for game in ("miner", "climber", "chaser"):
        online = preset(f"procgen:{game}", "paper").online
        assert (online.predictor_learning_rate, online.regularisation) == (1e-3, 1.0)
    online = preset("procgen:bossfight", "paper").online
    assert (online.predictor_learning_rate, online.regularisation) == (2e-5, 15.0)


@pytest.mark.parametrize("stop", [Interrupted("stopped by SIGTERM", 143), KeyboardInterrupt()])
def test_a_signal_while_envpool_loads_is_not_a_missing_library(
    stop: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: str) -> None:
        raise ImportError("initialization failed") from stop

    monkeypatch.setattr(pool.importlib, "import_module", load)
    with pytest.raises(type(stop)) as caught:
        pool.envpool.__wrapped__("procgen", "envpool.procgen")
    assert caught.value is stop


def test_reading_names_and_specs_loads_no_simulator() -> None:
    program = """
import sys
from bcvlr_fast import envs
for name in ("procgen:maze", "dmc:finger_spin", "dmc:jaco_reach_top_left", "metaworld:reach"):
    envs.spec(name)
print([name for name in ("torch", "envpool", "gymnasium", "mujoco", "dm_control", "numba") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rendering_is_chosen_for_suites_that_mujoco_draws() -> None:
    assert {suite.name for suite in SUITES.values() if suite.renderings} == {"dmc", "metaworld"}
    for setting in ("stock", "fast", "auto"):
        assert chosen_rendering("procgen:maze", setting) == "stock"
        assert chosen_rendering("dmc:finger_spin", setting) in (("stock", "fast") if setting == "auto" else (setting,))


def test_wrappers_pass_on_the_newest_rewards() -> None:
    env = Stacked(make("procgen:bossfight", 2, seed=0), 2)
    env.reset()
    total = np.zeros(2)
    while not (episodes := env.pop_episodes()):
        env.step(np.full(2, 9))
        total += env.last_reward
    assert episodes[0].score == pytest.approx(total[episodes[0].env])
    env.close()
