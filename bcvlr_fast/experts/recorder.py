"""Records experts as video datasets: replays of a deterministic game, or experts that act."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bcvlr_fast.envs import chosen_rendering, make, parse_name, spec
from bcvlr_fast.envs.assets import drawing_digest
from bcvlr_fast.envs.rendered import Simulated
from bcvlr_fast.experts.behaviors import Behaviour
from bcvlr_fast.experts.replays import Replays
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.videos import MANIFEST, DatasetWriter, Manifest
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos.labels import EvaluationLabels

_SEED = 2**31
"""Of the environments that experts play in: runs and evaluations are seeded below it."""
_ENVS = 10
"""How many of them play at once, whatever the machine, so that it is the same videos everywhere."""
_STEPS_AFTER_SUCCESS = 20
"""With which an episode's film ends, where the suite knows success: what follows shows an expert that is done."""
_EPISODE_FRAMES = 500
"""About as many as an episode has; few frames need few environments."""


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
    frame_shape = spec(env_name).frame_shape
    writer = DatasetWriter(folder, frame_shape)
    try:
        row = 0
        with screen.bar(f"recording {env_name}", total=source.frames, unit="frames") as bar:
            for episode, frames in enumerate(play(env_name, source)):
                writer.append(frames)
                action[row : row + len(frames) - 1] = source.episode_actions(episode)
                row += len(frames)
                bar.advance(len(frames))
        EvaluationLabels(action, source.episode_return, source.level).save(writer.work)
        writer.commit(Manifest(env_name, "replays", (source.length + 1).tolist(), list(frame_shape)))
    except BaseException:
        writer.abort()
        raise


def record_expert(
    expert: Behaviour,
    frames: int,
    steps: int,
    rendering: str,
    screen: Screen,
    folder: Path | None = None,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> Path:
    """Lets the expert act, and writes episodes, whole or the first `steps` steps of each where that is not 0, until
    there are `frames` frames; keeps a dataset that is there.

    Returns its folder, by default one in the cache.
    """
    rendering = chosen_rendering(expert.env, rendering)
    if folder is None:
        drawing = f"{rendering}-{drawing_digest(parse_name(expert.env)[0], rendering)}"
        name = f"{expert.env.replace(':', '-')}_{expert.name}_{frames}{f'_{steps}' if steps else ''}_{drawing}_64x64"
        folder = cache_folder() / "videos" / name
    if dry_run or ((folder / MANIFEST).exists() and not force):
        return folder
    shape = spec(expert.env).frame_shape
    writer, actions, scores, lengths = DatasetWriter(folder, shape), [], [], []
    try:
        with screen.bar(f"recording {expert.env}", total=frames, unit="frames") as bar:
            for seen, taken, score in _episodes(expert, frames, steps, rendering):
                writer.append(seen)
                actions += [taken, np.full((1, taken.shape[1]), np.nan, np.float32)]
                scores.append(score)
                lengths.append(len(seen))
                bar.advance(len(seen))
        levels = np.full(len(lengths), evaluation_labels.NO_LEVEL, np.int32)
        EvaluationLabels(np.concatenate(actions), np.array(scores, np.float32), levels).save(writer.work)
        writer.commit(Manifest(expert.env, f"expert {expert.name}", lengths, list(shape), rendering=rendering))
    except BaseException:
        writer.abort()
        raise
    return folder


def _episodes(
    expert: Behaviour, frames: int, steps: int, rendering: str
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """(frames [T + 1, C, H, W] uint8, actions [T, A] float32, score of the whole) of one episode after another, until
    there are `frames` frames."""
    env = make(expert.env, recording_envs(frames), _SEED, rendering=rendering)
    assert isinstance(env, Simulated)
    try:
        first = env.reset()
        seen: list[list[np.ndarray]] = [[frame] for frame in first]
        taken: list[list[np.ndarray]] = [[] for _ in first]
        steps_left = np.full(env.num_envs, np.inf)
        while frames > 0:
            actions = expert.act(env.states)
            filmed = np.array([not steps or len(each) < steps for each in taken])
            step = env.step(actions, drawn=filmed)
            for n in range(env.num_envs):
                if filmed[n]:
                    seen[n].append(step.frames[n])
                    taken[n].append(actions[n])
            score = {episode.env: episode.score for episode in env.pop_episodes()}
            following = dict(zip(np.flatnonzero(step.ended), step.first_frames, strict=True))
            steps_left -= 1
            steps_left[env.last_success] = np.minimum(steps_left[env.last_success], _STEPS_AFTER_SUCCESS)
            if len(cut := np.flatnonzero((steps_left <= 0) & ~step.ended)):
                score |= dict.fromkeys(cut, 1.0)
                following |= zip(cut, env.reset(cut), strict=True)
            for n in sorted(score):
                if frames > 0:
                    yield np.stack(seen[n]), np.stack(taken[n]), score[n]
                frames -= len(seen[n])
                seen[n], taken[n], steps_left[n] = [following[n]], [], np.inf
    finally:
        env.close()


def recording_envs(frames: int) -> int:
    """How many environments an expert plays in for so many frames."""
    return min(max(1, frames // _EPISODE_FRAMES), _ENVS)


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
        frames = np.empty((len(actions) + 1, *env.spec.frame_shape), np.uint8)
        frames[0] = env.reset()[0]
        for i, action in enumerate(actions):
            step = env.step(np.array([action]))
            frames[i + 1] = step.frames[0]
            if step.ended[0] != (i == len(actions) - 1):
                found = "ended at" if step.ended[0] else "goes on after"
                raise _mismatch(env_name, level, f"{found} step {i + 1} of {len(actions)}")
        played = env.pop_episodes()[0]
        env.close()
        if abs(played.score - source.episode_return[episode]) > 1e-3:
            found = f"return {played.score:g}, not {source.episode_return[episode]:g}"
            raise _mismatch(env_name, level, found)
        yield frames


def _mismatch(env_name: str, level: int, found: str) -> UserError:
    return UserError(
        f"videos: replay of {env_name} level {level} {found}: "
        "the installed EnvPool plays this game differently (expected the version in constraints.txt)"
    )
