"""Learns a policy from expert videos and reward-free interaction.

python -m bcvlr_fast.train --env procgen:bossfight
"""

from __future__ import annotations

import sys
import time

from bcvlr_fast.config.files import to_json
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.runs.arguments import resolve
from bcvlr_fast.runs.training import train
from bcvlr_fast.system.command import call


def main(argv: list[str]) -> None:
    """The command."""
    start = time.monotonic()
    request = resolve(argv)
    settings, folder = request.settings, request.folder
    if request.print_config:
        print(to_json(settings, request.sources))
        return
    assert isinstance(settings, Config)
    from bcvlr_fast.envs import make, spec
    from bcvlr_fast.nn.pretrained import PretrainedEncoder
    from bcvlr_fast.runs import expert_videos as training_videos
    from bcvlr_fast.runs.announce import announce
    from bcvlr_fast.runs.multitask import split_tasks, train_tasks
    from bcvlr_fast.system.screen import Screen
    from bcvlr_fast.training import metrics_log as logger

    screen = Screen()
    announce(settings, folder, request.why, screen)
    tasks = split_tasks(settings)
    for task in tasks:  # what is missing is said before anything is written
        make(task.first_env, 1, 0, rendering=task.rendering).close()
    if settings.encoder.pretrained:
        shape = spec(settings.first_env).frame_shape
        PretrainedEncoder(
            settings.encoder, settings.frame_stack * shape[0], shape[1], load=not (folder / "ckpt").exists()
        )
    logger.check_tracker(request.track)
    videos = [training_videos.find(task, screen, request.dry_run) for task in tasks]
    if request.dry_run:
        screen.say("dry run: nothing was written")
    elif len(tasks) == 1:
        train(settings, folder, videos[0], screen, request.track, start, request.profile)
    else:
        train_tasks(settings, tasks, videos, folder, screen, request.track, start)


if __name__ == "__main__":
    sys.exit(call(lambda: main(sys.argv[1:])))
