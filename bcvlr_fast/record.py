"""Records the bundled expert replays of an environment as a video dataset.

python -m bcvlr_fast.record --env procgen:bossfight
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcvlr_fast import evaluation_labels
from bcvlr_fast.command import run_command
from bcvlr_fast.envs import make, parse_name
from bcvlr_fast.errors import UserError
from bcvlr_fast.evaluation_labels import EvaluationLabels
from bcvlr_fast.experts import replays
from bcvlr_fast.screen import Screen
from bcvlr_fast.videos import MANIFEST, DatasetWriter, Manifest, cache_folder


@dataclass(frozen=True)
class Arguments:
    """Record an expert's replays as videos: frames for training, labels for evaluation apart from them."""

    env: str = "procgen:bossfight"
    """suite:task, such as procgen:bossfight."""
    out: Path | None = None
    """Dataset folder; the default is named by environment, source, size and seed under the cache folder."""
    force: bool = False
    """Record again where the dataset exists."""


def main(arguments: Arguments) -> None:
    """The command."""
    parse_name(arguments.env)
    screen = Screen()
    folder = arguments.out or default_folder(arguments.env)
    if arguments.out and folder.exists():
        if not (folder / MANIFEST).exists():
            raise UserError(f"out: {folder} exists and is not a dataset")
        if not arguments.force:
            raise UserError(f"out: {folder} exists (--force records it again)")
    record(arguments.env, folder, screen, force=arguments.force)
    screen.say(f"videos: {folder}")


def default_folder(env_name: str) -> Path:
    """Where the recording of an environment's bundled replays is cached."""
    suite, game = parse_name(env_name)
    source = replays.load(game)
    content = hashlib.sha256(source.level.tobytes() + source.actions.tobytes()).hexdigest()[:8]
    return cache_folder() / "videos" / f"{suite}-{game}_replays-{content}_64x64_s0"


def record(env_name: str, folder: Path, screen: Screen, force: bool = False) -> None:
    """Steps the replays of `env_name` in the environment and writes the dataset; keeps one that is there.

    Every episode must end where the replay ends, with the replay's return, or UserError is raised.
    """
    if (folder / MANIFEST).exists() and not force:
        return
    _, game = parse_name(env_name)
    source = replays.load(game)
    frames = int(source.length.sum()) + len(source.length)
    action = np.full(frames, evaluation_labels.NO_ACTION, np.uint8)
    writer: DatasetWriter | None = None
    try:
        with screen.bar(f"recording {env_name}", total=frames, unit="frames") as bar:
            row = 0
            for episode, level in enumerate(source.level):
                actions = source.episode_actions(episode)
                env = make(env_name, num_envs=1, seed=0, level=int(level))
                writer = writer or DatasetWriter(folder, frames, env.frame_shape)
                writer.frames[row] = env.reset()[0]
                for i, taken in enumerate(actions):
                    step = env.step(np.array([taken]))
                    writer.frames[row + 1 + i] = step.frames[0]
                    if step.ended[0] != (i == len(actions) - 1):
                        raise _mismatch(env_name, level, f"ended at step {i + 1} of {len(actions)}")
                played = env.pop_episodes()[0]
                if abs(played.episode_return - source.episode_return[episode]) > 1e-3:
                    found = f"return {played.episode_return:g}, not {source.episode_return[episode]:g}"
                    raise _mismatch(env_name, level, found)
                action[row : row + len(actions)] = actions
                row += len(actions) + 1
                env.close()
                bar.advance(len(actions) + 1)
        assert writer is not None
        EvaluationLabels(action, source.episode_return, source.level).save(writer.work)
        lengths = (source.length + 1).tolist()
        writer.commit(Manifest(env_name, "replays", lengths, list(writer.frames.shape[1:])))
    except BaseException:
        if writer:
            writer.abort()
        raise


def _mismatch(env_name: str, level: int, found: str) -> UserError:
    return UserError(
        f"videos: replay of {env_name} level {level} {found}: "
        "the installed EnvPool plays this game differently (expected the version in constraints.txt)"
    )


if __name__ == "__main__":
    run_command(main, Arguments)
