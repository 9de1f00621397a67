"""Transitions with their actions from a user's labelled videos: what offline decoding has in place of interaction.

The paper's table 10. No other training reads actions of videos, and this one only those that `--labels` names.
"""

from __future__ import annotations

import numpy as np

from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.experts import recorder
from bcvlr_fast.runs import expert_videos as training_videos
from bcvlr_fast.training.compute import choose_device
from bcvlr_fast.config import Config
from bcvlr_fast.envs import parse_name, spec
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.experts import replays
from bcvlr_fast.data.replay import Replay
from bcvlr_fast.system.screen import Screen


def labelled_replay(config: Config, screen: Screen) -> Replay:
    """The first `labelled_frames` frames of `config.labels` with their actions.

    Raises UserError where there are none, or fewer frames, or actions that are not the environment's.
    """
    path = config.labels
    assert path is not None
    if replays.is_replays(path):
        source = replays.load_file(path, parse_name(config.env)[1])
        path = recorder.default_folder(config.env, source)
        recorder.record(config.env, source, path, screen)
    videos = training_videos.open_of(config, path)
    labels, env = evaluation_labels.load_labels(path), spec(config.env)
    kind = f"{env.actions.size} {'numbers' if env.actions.continuous else 'discrete actions'} of each frame"
    count = config.labelled_frames
    ends = videos.lengths.cumsum() - 1
    ends = ends[ends < count]
    try:
        action = evaluation_labels.as_actions(labels.action[:count], ends, env.actions) if labels else None
    except ValueError as error:
        raise UserError(f"labels: {path}: within episodes {error}") from None
    if action is None:
        raise UserError(f"labels: {path}: expected a dataset with {kind} (import them with --keep-labels)")
    if len(videos.frames) < count:
        raise UserError(f"labels: {path}: expected {count:,} frames or more, got {len(videos.frames):,}")
    replay = Replay(count, 1, env, choose_device(config.device))
    only, last = np.zeros(1, np.int64), set(ends.tolist())
    for row in range(count):
        frame, end = np.array(videos.frames[row : row + 1]), row in last
        replay.append(only, frame, None if end else action[row : row + 1], ends=end)
    screen.say(f"labels: {count:,} frames, {path}")
    return replay
