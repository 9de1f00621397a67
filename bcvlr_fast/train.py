"""Learns a policy from expert videos and reward-free interaction.

python -m bcvlr_fast.train --env procgen:bossfight
"""

from __future__ import annotations

import dataclasses
import sys
import time

from bcvlr_fast import config
from bcvlr_fast.config import Config
from bcvlr_fast.runs.arguments import _updates, announce, resolve
from bcvlr_fast.runs.training import train
from bcvlr_fast.system.command import call


def main(argv: list[str]) -> None:
    """The command."""
    start = time.monotonic()
    arguments, folder, why = resolve(argv)
    profiled = _updates(arguments.profile)
    settings = Config(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Config)})
    if arguments.print_config:
        print(config.to_json(settings))
        return
    from bcvlr_fast.envs import make, spec
    from bcvlr_fast.nn.pretrained import PretrainedEncoder
    from bcvlr_fast.runs import expert_videos as training_videos
    from bcvlr_fast.runs.multitask import split_tasks, train_tasks
    from bcvlr_fast.system.screen import Screen
    from bcvlr_fast.training import metrics_log as logger

    screen = Screen()
    announce(settings, folder, why, screen)
    tasks = split_tasks(settings)
    for task in tasks:  # what is missing is said before anything is written
        make(task.env, 1, 0, rendering=task.rendering).close()
    if settings.encoder.pretrained:
        shape = spec(tasks[0].env).frame_shape
        PretrainedEncoder(
            settings.encoder, settings.frame_stack * shape[0], shape[1], load=not (folder / "ckpt").exists()
        )
    logger.check_tracker(arguments.track)
    videos = [training_videos.find(task, screen, arguments.dry_run) for task in tasks]
    if arguments.dry_run:
        screen.say("dry run: nothing was written")
    elif len(tasks) == 1:
        train(settings, folder, videos[0], screen, arguments.track, start, profiled)
    else:
        train_tasks(settings, tasks, videos, folder, screen, arguments.track, start)


if __name__ == "__main__":
    sys.exit(call(lambda: main(sys.argv[1:])))
