"""Transitions from a user's labeled videos, which replace interaction (Table 10 of the paper).

They are the only actions that BCV-LR reads without interaction, and `--labels` must name their videos.
"""

from __future__ import annotations

import numpy as np

from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.data.replay import Replay
from bcvlr_fast.envs import spec
from bcvlr_fast.experts import is_expert_file
from bcvlr_fast.runs import expert_videos
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import choose_device
from bcvlr_fast.videos.labels import as_actions


def labeled_replay(config: RunConfig, screen: Screen) -> Replay:
    """The first `labelled_frames` frames of `config.labels` with their actions.

    Raises UserError if the actions are missing or not the environment's, or if there are fewer frames.
    """
    path = config.labels
    assert path is not None
    if is_expert_file(path):
        path = expert_videos.record_expert(config, path, screen)
    videos, labels = expert_videos.open_matching(config, path)
    env = spec(config.first_env)
    kind = f"{env.actions.size} {'numbers' if env.actions.continuous else 'discrete actions'} of each frame"
    count = config.labelled_frames
    ends = videos.lengths.cumsum() - 1
    ends = ends[ends < count]
    try:
        action = as_actions(labels.action[:count], ends, env.actions) if labels else None
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
