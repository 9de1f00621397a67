"""Transitions with their actions from a user's labelled videos: what offline decoding has in place of interaction.

The paper's table 10. No other training reads actions of videos, and this one only those that `--labels` names.
"""

from __future__ import annotations

import numpy as np

from bcvlr_fast import evaluation_labels, record, training_videos
from bcvlr_fast.compute import choose_device
from bcvlr_fast.config import Config
from bcvlr_fast.envs import parse_name, spec
from bcvlr_fast.envs.specs import Actions
from bcvlr_fast.errors import UserError
from bcvlr_fast.evaluation_labels import NO_ACTION
from bcvlr_fast.experts import replays
from bcvlr_fast.replay import Replay
from bcvlr_fast.screen import Screen


def labelled_replay(config: Config, screen: Screen) -> Replay:
    """The first `labelled_frames` frames of `config.labels` with their actions.

    Raises UserError where there are none, or fewer frames, or actions that are not the environment's.
    """
    path = config.labels
    assert path is not None
    if replays.is_replays(path):
        source = replays.load_file(path, parse_name(config.env)[1])
        path = record.default_folder(config.env, source)
        record.record(config.env, source, path, screen)
    videos = training_videos.open_of(path, config.env)
    labels, env = evaluation_labels.load(path), spec(config.env)
    kind = f"{env.actions.size} {'numbers' if env.actions.continuous else 'discrete actions'} of each frame"
    if labels is None or not _fits(labels.action, env.actions):
        raise UserError(f"labels: {path}: expected a dataset with {kind} (import them with --keep-labels)")
    count = config.labelled_frames
    if len(videos.frames) < count:
        raise UserError(f"labels: {path}: expected {count:,} frames or more, got {len(videos.frames):,}")
    ends = np.zeros(len(videos.frames), bool)
    ends[videos.lengths.cumsum() - 1] = True
    action = labels.action[:count]
    taken = action[~ends[:count]]
    try:
        env.actions.check(taken, len(taken))
    except ValueError as error:
        raise UserError(f"labels: {path}: within episodes {error}") from None
    replay = Replay(count, 1, env, choose_device(config.device))
    only = np.zeros(1, np.int64)
    for row in range(count):
        frame, end = np.array(videos.frames[row : row + 1]), bool(ends[row])
        replay.append(only, frame, None if end else action[row : row + 1], ends=end)
    screen.say(f"labels: {count:,} frames, {path}")
    return replay


def _fits(action: np.ndarray, actions: Actions) -> bool:
    """Whether labels hold this kind of action."""
    if actions.continuous:
        return action.ndim == 2 and action.shape[1] == actions.size
    return action.ndim == 1 and not (action == NO_ACTION).all()
