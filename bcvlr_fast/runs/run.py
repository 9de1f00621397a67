"""A run folder opened for training: its method, its checkpoints and log, and the loop over its phases."""

from __future__ import annotations

import contextlib
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from bcvlr_fast.config.files import to_json
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.data.collector import OtherFrames
from bcvlr_fast.data.replay import Replay
from bcvlr_fast.envs import PixelEnv, spec
from bcvlr_fast.envs.budget import Budget
from bcvlr_fast.envs.scoring import EVALUATION_SEED
from bcvlr_fast.evaluation.evaluation import make_observed
from bcvlr_fast.methods.method import Method, Phase, Sight, Sources
from bcvlr_fast.methods.registry import method_type
from bcvlr_fast.runs.progress import Progress
from bcvlr_fast.runs.stopping import Stopping
from bcvlr_fast.system.errors import Diverged, UserError
from bcvlr_fast.system.files import lock_folder, write_whole
from bcvlr_fast.system.host import DRAWN_BY, machine, versions
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training.checkpoint import State
from bcvlr_fast.training.compute import configured_compute
from bcvlr_fast.training.learner import Learner
from bcvlr_fast.training.loop import Resumable
from bcvlr_fast.training.metrics_log import MetricsLog
from bcvlr_fast.training.profiler import TRACES, Profiler, TimeSpent

CHECKPOINTS, CONFIG = "ckpt", "config.json"
DONE = "done"
"""The name of the phase after the last one."""
_LOG_EVERY_UPDATES = 50
_SAVE_EVERY_S = 300.0


class Diagnostics(Protocol):
    """Checks a run between its phases and warns if one looks broken."""

    def after_phase(self, phase: str) -> None: ...

    def after_first_round(self, replay: Replay) -> None: ...


class Run:
    """A run folder that this process owns, fresh or resumed. It is the `Loop` of its method's phases."""

    def __init__(
        self,
        folder: Path,
        settings: RunConfig,
        screen: Screen,
        *,
        track: str = "none",
        start: float | None = None,
        profiled: tuple[int, int] | None = None,
        resume_folder: Path | None = None,
    ) -> None:
        """`start` is when the clock began (time.monotonic); `profiled` are the updates (first, end) of each learner to
        profile; `resume_folder` is what to resume after a stop, by default `folder`."""
        self.folder, self.config, self.screen = folder, settings, screen
        self.stopping = Stopping(resume_folder or folder)
        self._lock = lock_folder(folder)
        self._saved = checkpoint.load_to_resume(folder / CHECKPOINTS, screen.warn)
        self.compute = configured_compute(settings)
        torch.manual_seed(settings.seed)
        self.generator = torch.Generator(self.compute.device)
        self.generator.manual_seed(settings.seed)
        self.spec = spec(settings.first_env)
        make_method = method_type(settings.method)
        self.method: Method = make_method(settings, self.spec, self.compute, restored=self._saved is not None)
        self.phase_name = ""
        self._phase: Phase | None = None
        self._env: PixelEnv | None = None
        self._changed_versions: list[tuple[str, str | None, str | None]] = []
        self.progress = Progress()
        if not (folder / CONFIG).exists():
            here = {**machine(), "precision": self.compute.precision}
            (folder / "environment.json").write_text(json.dumps(here, indent=1))
            (folder / CONFIG).write_text(to_json(settings))
        self.log = MetricsLog(folder, track, time.monotonic() if start is None else start)
        self._parts: dict[str, Resumable] = {
            "agent": self.method.agent,
            "progress": self.progress,
            "log": self.log,
        }
        if self._saved:
            self._restore(self._saved)
        self.spent = TimeSpent(self.progress.spent)
        self.log.start -= self.progress.elapsed_s
        self._profiler = Profiler(profiled, folder / TRACES, self.compute.device)
        self._saved_s = time.monotonic()
        self._diagnostics: Diagnostics

    @property
    def start(self) -> float:
        """When the run's clock began (time.monotonic), as if it had never stopped."""
        return self.log.start

    def place(self, placement: str) -> None:
        """Records where the video frames are stored: other windows are drawn from the host than from the device."""
        before, self.progress.placement = self.progress.placement, placement
        if before not in (None, placement):
            self.screen.warn(
                f"resume: the frames were placed as '{before}' and are now '{placement}': different windows are "
                "drawn from here on (--frames-gb sets the memory for frames)"
            )

    def reconfigure(self, settings: RunConfig) -> None:
        """Uses other settings in the phases that have not begun, and saves them."""
        self.config = self.method.config = settings
        write_whole(self.folder / CONFIG, lambda part: part.write_text(to_json(settings)))

    def learn(self, sources: Sources, diagnostics: Diagnostics, *, until: str = DONE) -> None:
        """Runs the phases from the current one up to the phase `until`.

        Raises Interrupted if a signal asked for a stop, after the state is saved.
        """
        phases = self.method.phases(sources)
        order = [*phases, DONE]
        first = order.index(self.phase_name or order[0])
        self._diagnostics = diagnostics
        for name, following in zip(order[first:-1], order[first + 1 :], strict=True):
            if name == until:
                return
            self.phase_name, self._phase = name, phases[name]()
            position = (self._saved or {}).get("position")
            self._saved = None  # of a resumed run it holds as much as the networks
            if position is not None:
                self._phase.load_state_dict(position)
            self._run_phase(self._phase)
            self._phase = None
            diagnostics.after_phase(name)
            self.phase_name = following
            self.save()

    def make_env(self, num_envs: int, interactions: int) -> Budget:
        """New environments of the run, as its policy observes them, with a budget of `interactions`.

        Procgen's environment n is seeded with the first seed + n. Runs share no sequence of levels with each other or
        with the evaluation as long as seed * num_envs stays below the evaluation's seed. Other suites derive theirs
        from the first seed.
        """
        seed = self.config.seed * num_envs % EVALUATION_SEED
        self._env = make_observed(self.method.policy, num_envs, seed)
        return Budget(self._env, interactions, shows_reward=Sight.REWARD in self.method.sees)

    def train(self, learner: Learner, title: str, part: str = "") -> dict[str, float]:
        metrics: dict[str, float] = {}
        logged = learner.done
        with self.screen.bar(title, learner.updates, done=learner.done) as bar, self._profiler.learner():
            while learner.done < learner.updates:
                before, start = learner.done, time.perf_counter()
                with self._profiler.step(learner):
                    learner.step()
                self.progress.updates += learner.done - before
                bar.advance(learner.done - before)
                if learner.done - logged >= _LOG_EVERY_UPDATES or learner.done == learner.updates:
                    logged = learner.done
                    metrics = learner.read_metrics()
                    self._check_finite(learner, metrics)
                    self.log.write(self.phase_name, self.progress.updates, {"stage": learner.name, **metrics})
                    bar.show(_shortened(metrics))
                self.spent.add(part or learner.name, learner.done - before, time.perf_counter() - start)
                self._profiler.end_of_step()
                self.safe_point()
        return metrics

    def spend(self, part: str, count: int) -> contextlib.AbstractContextManager[None]:
        return self.spent.on(part, count)

    @contextlib.contextmanager
    def restoring(self, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        with self.screen.bar(title, total=total, unit=unit) as bar:

            def advance(count: int) -> None:
                bar.advance(count)
                self.stopping.check()  # the saved state stays unchanged

            yield advance

    def safe_point(self) -> None:
        if self.stopping.asked or time.monotonic() - self._saved_s >= _SAVE_EVERY_S:
            self.save()
        self.stopping.check()

    def collected(self, round_: int, interactions: int, replay: Replay, metrics: Mapping[str, float]) -> None:
        assert self._env is not None
        if round_ == 0:
            self._diagnostics.after_first_round(replay)
        episodes = self._env.pop_episodes()
        row: dict[str, float] = {"episodes": len(episodes)}
        if episodes:
            row[self.spec.score] = float(np.mean([episode.score for episode in episodes]))
            row["length_steps"] = float(np.mean([episode.length_steps for episode in episodes]))
        row |= metrics
        self.log.write(self.phase_name, interactions, {"stage": "round", "interactions": interactions, **row})
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in row.items())
        self.screen.say(f"  {interactions:,} interactions: {shown}")

    def warn(self, lines: list[str]) -> None:
        self.warn_of(self.phase_name, lines)

    def warn_of(self, phase: str, lines: list[str]) -> None:
        """Reports what looks broken in a phase, on the screen and in the report."""
        for line in lines:
            self.screen.warn(f"{phase}: {line}")
            self.log.write(phase, self.progress.updates, {"warning": line})

    def save(self) -> None:
        """Writes a checkpoint of all parts. Raises Diverged if a weight is not finite."""
        if not all(bool(p.isfinite().all()) for p in self.method.agent.parameters()):
            kept = self.folder / CHECKPOINTS
            raise Diverged(f"{self.phase_name}: weights are not finite; the last checkpoint is kept: {kept}")
        self.progress.elapsed_s = time.monotonic() - self.start
        self.progress.peaks, self.progress.spent = self.peaks(), self.spent.parts
        state: State = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {
            "generator": self.generator.get_state(),
            "phase": self.phase_name,
            "device": self.compute.device.type,
            "versions": versions(),
        }
        if self._phase is not None:
            state["position"] = self._phase.state_dict()
        work = sum(int(part["count"]) for part in self.spent.parts.values())
        checkpoint.save(self.folder / CHECKPOINTS, work, state)
        self._saved_s = time.monotonic()

    def peaks(self) -> dict[str, float]:
        """Peak resident memory of the run's own process, and of the GPU where there is one, in GB."""
        now = {"peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
        if self.compute.device.type == "cuda":
            now["peak_gpu_memory_gb"] = torch.cuda.max_memory_reserved(self.compute.device) / 1e9
        return {name: round(max(gb, self.progress.peaks.get(name, 0.0)), 2) for name, gb in now.items()}

    def close(self) -> None:
        self.log.close()
        self._lock.close()

    def _restore(self, saved: State) -> None:
        if saved.get("format") == 1 and saved["phase"] != DONE:
            expected = "expected checkpoints of format 2, got an unfinished run of format 1"
            raise UserError(f"resume: {self.folder}: {expected}: start a new run")
        device = self.compute.device.type
        if saved.get("device", device) != device:
            raise UserError(f"resume: {self.folder}: the run is on {saved['device']}, got device {device}")
        self._changed_versions = _other_versions(saved)
        for package, before, now in self._changed_versions:
            self.screen.warn(f"resume: {package} was {before}, is {now}: results may differ")
        for name, part in self._parts.items():
            if saved.get(name) is not None:
                part.load_state_dict(saved[name])
        if "generator" in saved:
            self.generator.set_state(saved["generator"])
        self.phase_name = saved["phase"]

    def _run_phase(self, phase: Phase) -> None:
        try:
            phase.run(self)
        except OtherFrames:
            raise UserError(self._why_other_frames()) from None
        finally:
            if self._env is not None:
                self._env.close()
                self._env = None

    def _why_other_frames(self) -> str:
        why = "another CPU, GPU or driver renders other pixels"
        for package, before, now in self._changed_versions:
            if package in DRAWN_BY:
                why = f"the run is of {package} {before}, this is {now}"
        return f"resume: {self.folder}: the same actions lead to other frames here: {why}"

    def _check_finite(self, learner: Learner, metrics: dict[str, float]) -> None:
        loss = metrics["loss"]
        if not np.isfinite(loss):
            line = f"{learner.name}: loss is {loss} at update {learner.done}"
            self.log.write(self.phase_name, self.progress.updates, {"warning": line})
            raise Diverged(f"{line}; the last checkpoint is kept: {self.folder / CHECKPOINTS}")


def _other_versions(saved: State) -> list[tuple[str, str | None, str | None]]:
    """(package, version of the run, version here) where they differ."""
    here = versions()
    return [(name, old, here.get(name)) for name, old in saved.get("versions", {}).items() if old != here.get(name)]


def _shortened(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in list(metrics.items())[:4])
