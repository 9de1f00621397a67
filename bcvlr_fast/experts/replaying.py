"""Plays replays in Procgen, which is deterministic: the same level and actions give the same frames."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcvlr_fast.envs import make, parse_name
from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.experts.expert import ExpertEpisode
from bcvlr_fast.experts.replays import Replays, is_replays, load_bundled, load_replays
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.system.workers import worker_pool

_MIN_FRAMES_PER_WORKER = 4_000
"""Below this, a process takes longer to start than to play."""
_EPISODES_TOGETHER = 4


@dataclass(frozen=True)
class ReplayExpert:
    """An `Expert` that plays replays."""

    replays: Replays
    source = "replays"
    extends = True

    @property
    def env(self) -> str:
        return f"procgen:{self.replays.game}"

    @property
    def name(self) -> str:
        return f"replays-{self.replays.digest}"

    @property
    def total_frames(self) -> int:
        return self.replays.frames

    def episodes(self, frames: int, steps: int, rendering: Rendering) -> Iterator[ExpertEpisode]:  # noqa: ARG002
        """Plays whole episodes, in their order. Raises UserError if one ends elsewhere or with another return than its
        replay."""
        replays = self.replays.first(frames)
        for episode, seen in enumerate(play(replays)):
            actions = replays.episode_actions(episode).astype(np.uint8)
            yield ExpertEpisode(seen, actions, float(replays.episode_return[episode]), int(replays.level[episode]))


def bundled(env: str) -> ReplayExpert:
    """The bundled replays of a Procgen game. Raises UserError if there are none."""
    return ReplayExpert(load_bundled(parse_name(env)[1]))


def from_file(file: Path, env: str) -> ReplayExpert:
    """Replays of an environment from a file. Raises UserError if it is invalid or of another environment."""
    expert = ReplayExpert(load_replays(file))
    if expert.env != env:
        raise UserError(f"replays: {file}: of {expert.env}, expected {env}")
    return expert


def verify(replays: Replays, screen: Screen) -> None:
    """Raises UserError unless every episode ends in the environment as in its replay, with the same return."""
    with screen.bar(f"checking in procgen:{replays.game}", total=replays.frames, unit="frames") as bar:
        for frames in play(replays):
            bar.advance(len(frames))


def play(replays: Replays) -> Iterator[np.ndarray]:
    """Plays the episodes on all cores and yields their frames [T + 1, C, H, W] uint8 in order.

    Raises UserError if an episode ends elsewhere or with another return than its replay, or if a worker dies.
    """
    workers = min(usable_cores(), replays.frames // _MIN_FRAMES_PER_WORKER)
    if workers < 2:
        for episode in range(len(replays.level)):
            yield from _play(replays.part(episode, episode + 1))
        return
    firsts = iter(range(0, len(replays.level), _EPISODES_TOGETHER))
    died = f"videos: a worker that plays replays died (is there memory for {workers}?)"
    with worker_pool(workers, died=died) as pool:

        def submit() -> Iterator[Future[list[np.ndarray]]]:
            for first in firsts:
                yield pool.submit(_play, replays.part(first, first + _EPISODES_TOGETHER))

        tasks = submit()
        pending = deque(itertools.islice(tasks, 2 * workers))
        while pending:
            yield from pending.popleft().result()
            pending.extend(itertools.islice(tasks, 1))


def _play(replays: Replays) -> list[np.ndarray]:
    """Frames of each episode; runs in a worker, too."""
    env_name = f"procgen:{replays.game}"
    played = []
    for episode, level in enumerate(replays.level):
        actions = replays.episode_actions(episode)
        with contextlib.closing(make(env_name, num_envs=1, seed=0, level=int(level))) as env:
            frames = np.empty((len(actions) + 1, *env.spec.frame_shape), np.uint8)
            frames[0] = env.reset()[0]
            for i, action in enumerate(actions):
                step = env.step(np.array([action]))
                frames[i + 1] = step.frames[0]
                if step.ended[0] != (i == len(actions) - 1):
                    found = "ends at" if step.ended[0] else "continues after"
                    raise _mismatch(env_name, level, f"{found} step {i + 1} of {len(actions)}")
            score = env.pop_episodes()[0].score
        if abs(score - replays.episode_return[episode]) > 1e-3:
            found = f"has return {score:g}, not {replays.episode_return[episode]:g}"
            raise _mismatch(env_name, level, found)
        played.append(frames)
    return played


def _mismatch(env_name: str, level: int, found: str) -> UserError:
    return UserError(
        f"videos: replay of {env_name} level {level} {found}: "
        "the installed EnvPool plays this game differently (expected the version in constraints.txt)"
    )


__all__ = ["ReplayExpert", "bundled", "from_file", "is_replays", "play", "verify"]
