"""A complete run: the phases of its method, the closing evaluation, and the report."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.config.files import to_json
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.data.replay import Replay
from bcvlr_fast.envs.scoring import EVALUATION_SEED
from bcvlr_fast.evaluation.evaluation import RESULT, evaluate
from bcvlr_fast.evaluation.health import HeldOut
from bcvlr_fast.evaluation.likeness import size_warnings
from bcvlr_fast.evaluation.report import Subject, write_report
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.method import Method, Sight, Sources
from bcvlr_fast.methods.registry import last_phase, method_type
from bcvlr_fast.runs.diagnostics import RunDiagnostics
from bcvlr_fast.runs.expert_videos import RunVideos, open_run_videos
from bcvlr_fast.runs.labeled import labeled_replay
from bcvlr_fast.runs.planning import Plan, replanned
from bcvlr_fast.runs.run import DONE, Run
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen

STATUS, VIDEOS = "status.json", "videos.json"
"""Files of a run folder: what it took, written at its end, and the path of its videos."""


def train(
    settings: RunConfig,
    folder: Path,
    videos_path: Path,
    screen: Screen,
    *,
    plan: Plan | None = None,
    track: str = "none",
    start: float | None = None,
    profiled: tuple[int, int] | None = None,
    resume_folder: Path | None = None,
) -> None:
    """Runs all phases, the closing evaluation and the report in `folder`, which keeps the `plan`, if any.

    The other arguments are those of `Run`.
    """
    videos = open_run_videos(settings, videos_path)
    actions = training_actions(settings, videos)  # missing labels are an error before anything is written
    transitions = labeled_replay(settings, screen) if settings.labels else None
    run = Run(folder, settings, screen, track=track, start=start, profiled=profiled, resume_folder=resume_folder)
    try:
        if plan is not None:
            plan.save(folder)
        (folder / VIDEOS).write_text(json.dumps({"path": str(videos_path.resolve())}))
        with run.stopping.signals():
            held_out = learn(run, videos, actions, transitions)
            run.stopping.at_once()
            policy = run.method.policy
            policy.save(folder)
            with run.spent.on("evaluation", settings.episodes):
                scores = None if videos.labels is None else videos.labels.episode_return
                evaluation = evaluate(policy, settings.episodes, EVALUATION_SEED, screen, scores)
            (folder / RESULT).write_text(evaluation.to_json())
            screen.table(evaluation.table())
            means = {name: score.mean for name, score in evaluation.scores.items()}
            run.log.write(DONE, run.progress.updates, {"stage": "evaluation", **means})
            with run.spent.on("report", 1):
                write_report(folder, subject_of(run.config, run.method, videos, held_out))
    finally:
        run.close()
    _finish(run)


def learn(
    run: Run, videos: RunVideos, actions: Tensor | None, transitions: Replay | None = None, *, until: str = DONE
) -> HeldOut | None:
    """Loads the video frames and runs the phases up to `until`; returns the held-out windows.

    `actions` are the `training_actions`.
    """
    settings, screen = run.config, run.screen
    store = videos.store(run.compute, settings.frames_gb)
    run.place(store.placement)
    sampler = videos.sampler(store, settings, run.generator)
    env = settings.first_env
    held_out = videos.held_out_windows(env, settings.window, run.compute, settings.frames_gb, screen)
    if not run.phase_name:
        run.warn_of("videos", size_warnings(videos.train.manifest))
    episodes = len(videos.train.lengths) + len(videos.held_out.lengths)
    frames = len(videos.train.frames) + len(videos.held_out.frames)
    screen.say(f"videos: {episodes} episodes, {frames:,} frames ({store.placement}), {videos.path}")
    labels = None if actions is None else actions.to(sampler.centers.device)[sampler.centers]
    sources = Sources(sampler, run.make_env, labels, transitions)
    diagnostics = RunDiagnostics(run, store, held_out)
    plan = Plan.load(run.folder)
    if plan is not None and plan.open:
        run.learn(sources, diagnostics, until=last_phase(settings.method))
        settings, plan = replanned(settings, len(videos.train.frames), plan, run.start, screen)
        run.reconfigure(settings)
        plan.save(run.folder)
    run.learn(sources, diagnostics, until=until)
    return held_out


def subject_of(settings: RunConfig, method: Method, videos: RunVideos, held_out: HeldOut | None) -> Subject:
    """The subject of the report of a run."""
    return Subject(
        policy=method.policy,
        expert=videos.expert,
        levels=videos.expert_levels,
        held_out=held_out,
        agent=method.agent if isinstance(method.agent, Agent) else None,
        title=f"{settings.method} on {settings.first_env}, {settings.preset}, seed {settings.seed}",
        configuration=to_json(settings),
        films=settings.films,
        summary=f"{method.summary} Preset `{settings.preset}`, seed {settings.seed}.",
    )


def training_actions(settings: RunConfig, videos: RunVideos) -> Tensor | None:
    """The expert's actions on the training frames, [N] int64 or [N, A] float32; None if the method may not see them.

    Raises UserError if it needs them and there are no labels.
    """
    if Sight.LABELS not in method_type(settings.method).sees:
        return None
    actions = videos.actions(settings.first_env, videos.train, 0)
    if actions is None:
        expected = "expected the expert's actions, which this method learns from (import with --keep-labels)"
        raise UserError(f"videos: {videos.path}: {expected}")
    return torch.from_numpy(actions if actions.ndim == 2 else actions.astype(np.int64))


def _finish(run: Run) -> None:
    minutes, peaks = (time.monotonic() - run.start) / 60, run.peaks()
    status = {"minutes": round(minutes, 2), **peaks, "spent": run.spent.parts}
    (run.folder / STATUS).write_text(json.dumps(status))
    run.screen.say(f"time: {run.spent.line()}")
    run.screen.say(f"report: {run.folder / 'report.html'}")
    memory = ", ".join(f"{name.removesuffix('_gb').replace('_', ' ')} {gb:.1f} GB" for name, gb in peaks.items())
    run.screen.say(f"done in {minutes:.1f} minutes, {memory}")
