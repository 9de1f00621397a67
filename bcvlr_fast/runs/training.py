"""A whole run: the phases, the closing evaluation, the report."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bcvlr_fast.methods.bcvlr.config import Config

if TYPE_CHECKING:
    from bcvlr_fast.data.replay import Replay
    from bcvlr_fast.runs.run import Run
    from bcvlr_fast.system.screen import Screen


def train(
    settings: Config,
    folder: Path,
    videos_path: Path,
    screen: Screen,
    track: str = "none",
    start: float | None = None,
    profiled: tuple[int, int] | None = None,
    resume_folder: Path | None = None,
) -> None:
    """The four phases, the closing evaluation and the report.

    `start` is when the clock began (time.monotonic); updates `profiled` (first, end) of each stage are profiled;
    `resume_folder` is what to go on with after a stop, if not `folder`.
    """
    start = time.monotonic() if start is None else start
    from bcvlr_fast.envs.scoring import EVALUATION_SEED
    from bcvlr_fast.evaluation import report
    from bcvlr_fast.evaluation.evaluation import RESULT, evaluate
    from bcvlr_fast.evaluation.likeness import size_complaints
    from bcvlr_fast.runs import expert_videos as training_videos
    from bcvlr_fast.runs.labelled import labelled_replay
    from bcvlr_fast.runs.pretrain import pretrain
    from bcvlr_fast.runs.run import Run
    from bcvlr_fast.videos import read_manifest

    videos = training_videos.use(settings, videos_path)
    labelled = labelled_replay(settings, screen) if settings.labels else None
    run = Run(folder, settings, screen, track, start, profiled, resume_folder)
    try:
        (folder / "videos.json").write_text(json.dumps({"path": str(videos_path.resolve())}))
        run.load_videos(videos)
        if run.before("features"):
            run.warn("videos", size_complaints(read_manifest(videos_path)))
        screen.say(
            f"videos: {len(videos.lengths)} episodes, {len(videos.frames):,} frames "
            f"({run.store.placement}), {videos_path}"
        )
        with run.signals():
            pretrain(run)
            if labelled is None:
                interact(run)
            else:
                decode_offline(run, labelled)
            run.finish_training()
            with run.spent.on("evaluation", settings.episodes):
                evaluation = evaluate(run.agent, settings, settings.episodes, EVALUATION_SEED, videos_path, screen)
            (folder / RESULT).write_text(evaluation.to_json())
            screen.table(evaluation.table())
            means = {name: score.mean for name, score in evaluation.scores.items()}
            run.log.write("done", run.updates, {"stage": "evaluation", **means})
            with run.spent.on("report", 1):
                report.write(folder, run.agent, settings, videos, run.held_out)
    finally:
        run.close()
    minutes = (time.monotonic() - run.start) / 60
    peaks = run.peaks()
    status = {"minutes": round(minutes, 2), **peaks, "spent": run.spent.parts}
    (folder / "status.json").write_text(json.dumps(status))
    screen.say(f"time: {run.spent.line()}")
    screen.say(f"report: {folder / 'report.html'}")
    memory = ", ".join(f"{name.removesuffix('_gb').replace('_', ' ')} {gb:.1f} GB" for name, gb in peaks.items())
    screen.say(f"done in {minutes:.1f} minutes, {memory}")


def interact(run: Run) -> None:
    """Phase 4: rounds of collecting, fine-tuning and cloning, until the interactions are used up."""
    if not run.before("online"):
        return
    from bcvlr_fast.envs.scoring import EVALUATION_SEED
    from bcvlr_fast.evaluation.evaluation import make_seen
    from bcvlr_fast.methods.bcvlr.online import Online
    from bcvlr_fast.runs.rounds import finish_round

    # Procgen's environment n is seeded with the first seed + n: runs share no sequence of levels with each other or
    # with the evaluation, as long as seed * num_envs stays below the evaluation's seed. Other suites draw theirs from
    # the first.
    num_envs = run.config.online.num_envs
    with contextlib.closing(make_seen(run.config, num_envs, run.config.seed * num_envs % EVALUATION_SEED)) as env:
        online = Online(run.config, run.agent, env, run.sampler, run.generator)
        run.attach(online)
        while online.round < online.rounds:
            finish_round(run, online)


def decode_offline(run: Run, replay: Replay) -> None:
    """Phase 4 without an environment: the rounds of fine-tuning and cloning, on labelled transitions."""
    if not run.before("online"):
        return
    from bcvlr_fast.methods.bcvlr.online import Decoding
    from bcvlr_fast.runs.rounds import finish_round

    decoding = Decoding(run.config, run.agent, replay, run.sampler, run.generator)
    run.attach(decoding)
    while decoding.round < decoding.rounds:
        finish_round(run, decoding)
