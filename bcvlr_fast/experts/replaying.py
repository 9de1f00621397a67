"""Plays replays in Procgen, which is deterministic: the same level and actions give the same frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcvlr_fast.envs import parse_name
from bcvlr_fast.envs.procgen import Level
from bcvlr_fast.envs.specs import FRAME_SHAPE, Rendering
from bcvlr_fast.experts.expert import ExpertEpisode
from bcvlr_fast.experts.replays import Replays, is_replays, load_bundled, load_replays
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen

_LEVELS_PER_CORE, _MOST_LEVELS = 2, 16
"""Levels that are played at the same time: while one core steps a level, this process reads the frames of another."""


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
    """Plays the episodes, some at the same time, and yields their frames [T + 1, C, H, W] uint8 in order.

    Raises UserError if an episode ends elsewhere or with another return than its replay.
    """
    together = min(_LEVELS_PER_CORE * usable_cores(), _MOST_LEVELS)
    episodes = iter(range(len(replays.level)))
    playing: list[_Playing] = []
    played: dict[int, np.ndarray] = {}
    following = 0
    try:
        while following < len(replays.level):
            for episode in itertools.islice(episodes, together - len(playing)):
                playing.append(_Playing(replays, episode))
            for each in playing:
                each.send()
            for each in playing:
                each.receive()
            for each in [each for each in playing if each.is_over]:
                playing.remove(each)
                played[each.episode] = each.finish()
            while following in played:
                yield played.pop(following)
                following += 1
    finally:
        for each in playing:
            each.level.close()


class _Playing:
    """An episode that is being played."""

    def __init__(self, replays: Replays, episode: int) -> None:
        self.episode, self._replays, self._actions = episode, replays, replays.episode_actions(episode)
        self.level = Level(replays.game, int(replays.level[episode]))
        self._frames = np.empty((len(self._actions) + 1, *FRAME_SHAPE), np.uint8)
        self._frames[0] = self.level.reset()
        self._steps, self._score, self._ended = 0, 0.0, False

    @property
    def is_over(self) -> bool:
        return self._ended or self._steps == len(self._actions)

    def send(self) -> None:
        self.level.send(self._actions[self._steps])

    def receive(self) -> None:
        frame, reward, self._ended = self.level.receive()
        self._steps += 1
        self._frames[self._steps] = frame
        self._score += reward

    def finish(self) -> np.ndarray:
        """Returns the frames. Raises UserError if the episode was not that of the replay."""
        self.level.close()
        expected = self._replays.episode_return[self.episode]
        if not self._ended or self._steps < len(self._actions):
            raise self._mismatch(
                f"{'ends at' if self._ended else 'continues after'} step {self._steps} of {len(self._actions)}"
            )
        if abs(self._score - expected) > 1e-3:
            raise self._mismatch(f"has return {self._score:g}, not {expected:g}")
        return self._frames

    def _mismatch(self, found: str) -> UserError:
        return UserError(
            f"videos: replay of procgen:{self._replays.game} level {self._replays.level[self.episode]} {found}: "
            "the installed EnvPool plays this game differently (expected the version in constraints.txt)"
        )


__all__ = ["ReplayExpert", "bundled", "from_file", "is_replays", "play", "verify"]
