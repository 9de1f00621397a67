"""Checks between the phases of a run."""

from __future__ import annotations

import numpy as np
import torch

from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.replay import Replay
from bcvlr_fast.evaluation.health import HeldOut, latent_report
from bcvlr_fast.evaluation.likeness import color_warnings
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.runs.run import Run

_COMPARED_FRAMES = 2048


class RunDiagnostics:
    """Held-out metrics of the latent actions, and a comparison of the colors of environment and videos."""

    def __init__(self, run: Run, videos: FrameStore, held_out: HeldOut | None) -> None:
        self._run, self._videos, self._held_out = run, videos, held_out

    def after_phase(self, phase: str) -> None:
        run, agent = self._run, self._run.method.agent
        if phase != "latent_actions" or self._held_out is None or not isinstance(agent, Agent):
            return
        report = latent_report(agent, self._held_out)
        run.log.write(phase, run.progress.updates, {"stage": "health", **report.metrics()})
        probe = "" if report.probe is None else f", {report.describe_probe()}"
        run.screen.say(
            f"  held out: world-model error {report.error_of_copy:.2f} times that of a copy, "
            f"perplexity {report.perplexity:.1f}, {report.dead_codes} of {report.codes} codes unused{probe}"
        )
        run.warn(report.warnings())

    def after_first_round(self, replay: Replay) -> None:
        rng = np.random.default_rng(self._run.config.seed)
        own = np.flatnonzero(replay.acted)
        samples = []
        for frames, rows in ((self._videos.frames, np.arange(len(self._videos.frames))), (replay.store.frames, own)):
            chosen = np.sort(rng.choice(rows, min(_COMPARED_FRAMES, len(rows)), replace=False))
            samples.append(frames[torch.from_numpy(chosen).to(frames.device)].cpu().numpy())
        self._run.warn(color_warnings(*samples))
