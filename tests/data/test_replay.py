"""The replay buffer, compared with a plain list of episodes."""

import numpy as np
import torch

from bcvlr_fast.config.window import Window
from bcvlr_fast.data.replay import Replay, ReplaySampler
from bcvlr_fast.envs.specs import Actions, EnvSpec

SPEC = EnvSpec((3, 1, 1), Actions(False, 15), 15.0)


def test_the_replay_holds_the_newest_transitions_and_their_actions() -> None:
    rng = np.random.default_rng(0)
    num_envs, capacity, past = 3, 30, 1
    replay = Replay(capacity, num_envs, SPEC, torch.device("cpu"))
    # Every frame is unique: (environment, frame number // 200, frame number % 200).
    history: list[list[tuple[int, int, int]]] = [[] for _ in range(num_envs)]  # (frame, episode, action)
    numbers, episodes = np.zeros(num_envs, int), np.zeros(num_envs, int)

    def append(env: int, action: int | None) -> None:
        frame = np.array([env, numbers[env] // 200, numbers[env] % 200], np.uint8).reshape(1, 3, 1, 1)
        actions = None if action is None else np.array([action])
        replay.append(np.array([env]), frame, actions, ends=action is None)
        history[env].append((int(numbers[env]), int(episodes[env]), -1 if action is None else action))
        numbers[env] += 1

    for _ in range(400):
        for env in range(num_envs):
            append(env, int(rng.integers(15)))
            if rng.random() < 0.1:
                append(env, None)
                episodes[env] += 1

    slots = capacity // num_envs + 1
    expected = set()
    for env, frames in enumerate(history):
        newest = frames[-slots:]
        for i in range(past, len(newest) - 1):
            (first, e0, _), (center, e1, action), (_, e2, _) = newest[i - past], newest[i], newest[i + 1]
            if e1 == e2 and action >= 0:  # the first frame of an episode repeats
                expected.add((env, first if e0 == e1 else center, center, action))
    sampler = ReplaySampler(replay, Window(past, 1), torch.Generator().manual_seed(0))
    assert sampler.refresh()
    centers = sampler.centers[sampler.draw_rows((20_000,))]
    actions = sampler.action[centers]
    frames, index = sampler.take(centers)
    windows = frames[index.T].flatten(2).int()  # [B, 3, (env, hi, lo)]
    number = windows[:, :, 1] * 200 + windows[:, :, 2]
    drawn = {(int(w[0, 0]), int(n[0]), int(n[1]), int(a)) for w, n, a in zip(windows, number, actions, strict=True)}
    steps = number.diff(dim=1)
    assert (steps[:, past:] == 1).all()
    assert {0, 1} == set(steps[:, 0].tolist())
    assert drawn <= expected
    # Only windows that straddle the physical end of a ring may be missing.
    assert len(expected - drawn) <= num_envs * (past + 1)


def test_newest_excludes_older_windows() -> None:
    replay = Replay(100, 1, SPEC, torch.device("cpu"))
    for i in range(50):
        replay.append(np.array([0]), np.full((1, 3, 1, 1), i, np.uint8), np.array([0]))
    sampler = ReplaySampler(replay, Window(1, 1), torch.Generator())
    assert sampler.refresh(newest=10)
    assert sampler.centers[: int(sampler.count)].tolist() == list(range(41, 49))


def test_an_empty_replay_has_no_windows() -> None:
    assert not ReplaySampler(Replay(100, 2, SPEC, torch.device("cpu")), Window(1, 1), torch.Generator()).refresh()
