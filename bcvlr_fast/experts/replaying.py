"""Plays replays in Procgen, which is deterministic: the same level and actions give the same frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcvlr_fast.envs import make, parse_name
from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.experts.expert import ExpertEpisode
from bcvlr_fast.experts.replays import Replays, is_replays, load_bundled, load_replays
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen


@dataclass(frozen=True)
class ReplayExpert:
    """An `Expert` that plays replays, always all of them."""

    replays: Replays
    source = "replays"

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
        """Plays every episode whole. Raises UserError if one ends elsewhere or with another return than its replay."""
        replays = self.replays
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
    """Plays one episode after another and yields its frames [T + 1, C, H, W] uint8.

    Raises UserError if an episode ends elsewhere or with another return than its replay.
    """
    env_name = f"procgen:{replays.game}"
    for episode, level in enumerate(replays.level):
        actions = replays.episode_actions(episode)
        env = make(env_name, num_envs=1, seed=0, level=int(level))
        frames = np.empty((len(actions) + 1, *env.spec.frame_shape), np.uint8)
        frames[0] = env.reset()[0]
        for i, action in enumerate(actions):
            step = env.step(np.array([action]))
            frames[i + 1] = step.frames[0]
            if step.ended[0] != (i == len(actions) - 1):
                found = "ends at" if step.ended[0] else "continues after"
                raise _mismatch(env_name, level, f"{found} step {i + 1} of {len(actions)}")
        played = env.pop_episodes()[0]
        env.close()
        if abs(played.score - replays.episode_return[episode]) > 1e-3:
            found = f"has return {played.score:g}, not {replays.episode_return[episode]:g}"
            raise _mismatch(env_name, level, found)
        yield frames


def _mismatch(env_name: str, level: int, found: str) -> UserError:
    return UserError(
        f"videos: replay of {env_name} level {level} {found}: "
        "the installed EnvPool plays this game differently (expected the version in constraints.txt)"
    )


__all__ = ["ReplayExpert", "bundled", "from_file", "is_replays", "play", "verify"]
