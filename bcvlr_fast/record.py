"""Records expert replays of an environment as a video dataset: the bundled ones, or a file of your own.

python -m bcvlr_fast.record --env procgen:bossfight
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcvlr_fast import evaluation_labels
from bcvlr_fast.command import run_command
from bcvlr_fast.envs import make, parse_name
from bcvlr_fast.envs.procgen import FRAME_SHAPE
from bcvlr_fast.errors import UserError
from bcvlr_fast.evaluation_labels import EvaluationLabels
from bcvlr_fast.experts import replays
from bcvlr_fast.experts.replays import Replays
from bcvlr_fast.files import cache_folder
from bcvlr_fast.screen import Screen
from bcvlr_fast.videos import MANIFEST, DatasetWriter, Manifest


@dataclass(frozen=True)
class Arguments:
    """Record an expert's replays as videos: frames for training, labels for evaluation apart from them."""

    env: str = "procgen:bossfight"
    """suite:task, such as procgen:bossfight."""
    replays: Path | None = None
    """Replay file of `bcvlr_fast.expert`; without it the bundled replays of the environment."""
    out: Path | None = None
    """Dataset folder; the default is named by environment, source, size and seed under the cache folder."""
    force: bool = False
    """Record again where the dataset exists."""


def main(arguments: Arguments) -> None:
    """The command."""
    _, game = parse_name(arguments.env)
    source = replays.load_file(arguments.replays, game) if arguments.replays else replays.load(game)
    screen = Screen()
    folder = arguments.out or default_folder(arguments.env, source)
    if arguments.out and folder.exists():
        if not (folder / MANIFEST).exists():
            raise UserError(f"out: {folder} exists and is not a dataset")
        if not arguments.force:
            raise UserError(f"out: {folder} exists (--force records it again)")
    record(arguments.env, source, folder, screen, force=arguments.force)
    screen.say(f"videos: {folder}")


def default_folder(env_name: str, source: Replays) -> Path:
    """Where the recording of an environment's replays is cached."""
    suite, game = parse_name(env_name)
    return cache_folder() / "videos" / f"{suite}-{game}_replays-{source.digest}_64x64_s0"


def record(env_name: str, source: Replays, folder: Path, screen: Screen, force: bool = False) -> None:
    """Steps the replays of `env_name` in the environment and writes the dataset; keeps one that is there.

    Every episode must end where the replay ends, with the replay's return, or UserError is raised.
    """
    if (folder / MANIFEST).exists() and not force:
        return
    action = np.full(source.frames, evaluation_labels.NO_ACTION, np.uint8)
    writer = DatasetWriter(folder, FRAME_SHAPE)
    try:
        row = 0
        with screen.bar(f"recording {env_name}", total=source.frames, unit="frames") as bar:
            for episode, frames in enumerate(play(env_name, source)):
                writer.append(frames)
                action[row : row + len(frames) - 1] = source.episode_actions(episode)
                row += len(frames)
                bar.advance(len(frames))
        EvaluationLabels(action, source.episode_return, source.level).save(writer.work)
        writer.commit(Manifest(env_name, "replays", (source.length + 1).tolist(), list(FRAME_SHAPE)))
    except BaseException:
        writer.abort()
        raise


def verify(env_name: str, source: Replays, screen: Screen) -> None:
    """Raises UserError unless every episode ends in the environment as in the replay, with the same return."""
    with screen.bar(f"checking in {env_name}", total=source.frames, unit="frames") as bar:
        for frames in play(env_name, source):
            bar.advance(len(frames))


def play(env_name: str, source: Replays) -> Iterator[np.ndarray]:
    """The frames [T + 1, C, H, W] uint8 of one episode after another.

    Raises UserError where an episode ends elsewhere than the replay, or with another return.
    """
    for episode, level in enumerate(source.level):
        actions = source.episode_actions(episode)
        env = make(env_name, num_envs=1, seed=0, level=int(level))
        frames = np.empty((len(actions) + 1, *env.frame_shape), np.uint8)
        frames[0] = env.reset()[0]
        for i, action in enumerate(actions):
            step = env.step(np.array([action]))
            frames[i + 1] = step.frames[0]
            if step.ended[0] != (i == len(actions) - 1):
                found = "ended at" if step.ended[0] else "goes on after"
                raise _mismatch(env_name, level, f"{found} step {i + 1} of {len(actions)}")
        played = env.pop_episodes()[0]
        env.close()
        if abs(played.episode_return - source.episode_return[episode]) > 1e-3:
            found = f"return {played.episode_return:g}, not {source.episode_return[episode]:g}"
            raise _mismatch(env_name, level, found)
        yield frames


def _mismatch(env_name: str, level: int, found: str) -> UserError:
    return UserError(
        f"videos: replay of {env_name} level {level} {found}: "
        "the installed EnvPool plays this game differently (expected the version in constraints.txt)"
    )


if __name__ == "__main__":
    run_command(main, Arguments)
