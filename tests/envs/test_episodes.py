"""Scores and lengths of finished episodes."""

import numpy as np

from bcvlr_fast.envs.episodes import Episode, Episodes


def test_returns_are_summed_and_success_at_any_step_counts() -> None:
    returns, successes = Episodes(3), Episodes(3)
    for step in range(4):
        envs = np.array([2, 0]) if step < 2 else np.array([2])
        ended = np.array([step == 1, False])[: len(envs)] if step < 3 else np.array([True])
        reward = np.array([1.0, 10.0])[: len(envs)]
        success = np.array([step == 2, step == 0])[: len(envs)]
        returns.add(envs, ended, reward)
        successes.add(envs, ended, reward, success)
    assert returns.length_steps.tolist() == [2, 0, 0]
    assert returns.pop() == [Episode(2, 2.0, 2), Episode(2, 2.0, 2)]
    assert successes.pop() == [Episode(2, 0.0, 2), Episode(2, 1.0, 2)]
    assert returns.pop() == []


def test_a_restart_drops_running_and_finished_episodes() -> None:
    episodes = Episodes(2)
    both = np.arange(2)
    episodes.add(both, np.array([True, False]), np.ones(2))
    episodes.restart()
    assert episodes.pop() == []
    episodes.add(both, np.array([True, True]), np.ones(2))
    assert episodes.pop() == [Episode(0, 1.0, 1), Episode(1, 1.0, 1)]


def test_some_environments_restart_and_the_others_continue() -> None:
    episodes = Episodes(3)
    every = np.arange(3)
    episodes.add(every, np.array([True, True, False]), np.ones(3))
    episodes.add(every, np.zeros(3, bool), np.ones(3))
    episodes.restart(np.array([1, 2]))
    assert episodes.score.tolist() == [1.0, 0.0, 0.0]
    assert episodes.length_steps.tolist() == [1, 0, 0]
    assert episodes.pop() == [Episode(0, 1.0, 1)]
