"""The budget counts interactions exactly and hides rewards."""

import numpy as np
import pytest

from bcvlr_fast.envs import PixelEnv, make
from bcvlr_fast.envs.budget import Budget
from bcvlr_fast.envs.scoring import play


def bossfight(num_envs: int = 3) -> PixelEnv:
    return make("procgen:bossfight", num_envs, seed=0)


def test_steps_are_counted_and_resets_are_free() -> None:
    env = Budget(bossfight(), interactions=8)
    env.reset()
    env.reset()
    assert (env.used, env.left) == (0, 8)
    env.step(np.zeros(3, int))
    env.step(np.zeros(2, int), np.array([0, 2]))
    assert (env.used, env.left) == (5, 3)
    env.step(np.zeros(3, int))
    assert (env.used, env.left) == (8, 0)
    env.close()


def test_a_step_beyond_the_budget_is_refused_before_it_happens() -> None:
    inner, twin = bossfight(), bossfight()
    env = Budget(inner, interactions=2)
    env.reset()
    twin.reset()
    with pytest.raises(ValueError, match="expected at most 2 interactions, all that is left, got 3"):
        env.step(np.zeros(3, int))
    assert env.used == 0
    both = np.arange(2)
    np.testing.assert_array_equal(env.step(np.full(2, 7), both).frames, twin.step(np.full(2, 7), both).frames)
    with pytest.raises(ValueError, match="expected at most 0 interactions"):
        env.step(np.zeros(1, int), np.array([0]))
    env.step(np.empty(0, int), np.empty(0, int))
    env.close()
    twin.close()


def test_bad_actions_cost_nothing() -> None:
    env = Budget(bossfight(), interactions=9)
    env.reset()
    with pytest.raises(ValueError, match="actions: expected"):
        env.step(np.full(3, 99))
    assert env.used == 0
    env.close()


def test_rewards_are_shown_only_on_request() -> None:
    inner = bossfight()
    hidden, shown = Budget(inner, 9), Budget(inner, 9, shows_reward=True)
    shown.reset()
    shown.step(np.zeros(3, int))
    np.testing.assert_array_equal(shown.last_reward, inner.last_reward)
    with pytest.raises(RuntimeError, match="reward-free"):
        _ = hidden.last_reward
    inner.close()


def test_an_environment_with_a_budget_can_be_evaluated() -> None:
    env = Budget(bossfight(), interactions=10_000)
    score = play(env, lambda frames: np.full(len(frames), 4), episodes=3)
    assert score.episodes == 3
    assert score.mean_length_steps is not None
    assert env.used >= 3 * score.mean_length_steps
    env.close()
