"""One training run: its folder, its agent and data, its checkpoints, and the loop over a stage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from bcvlr_fast.training import checkpoint, metrics_log as logger
from bcvlr_fast import config
from bcvlr_fast.evaluation import health
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.training.checkpoint import Checkpoint
from bcvlr_fast.system.command import ending_signals
from bcvlr_fast.training.compute import choose_compute, choose_device
from bcvlr_fast.config import Config
from bcvlr_fast.envs import spec
from bcvlr_fast.system.errors import Diverged, Interrupted, UserError
from bcvlr_fast.system.files import lock_folder
from bcvlr_fast.data.frames import FrameStore, WindowSampler, with_fewer_still
from bcvlr_fast.system.host import DRAWN_BY, machine, versions
from bcvlr_fast.methods.bcvlr.online import Decoding, Online
from bcvlr_fast.training.profiler import TRACES, Profiler, TimeSpent
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.learner import Stage
from bcvlr_fast.videos import ExpertVideos

PHASES = ("features", "latent_actions", "pre_imitation", "online", "done")
_LOG_EVERY_UPDATES = 50
_SAVE_EVERY_S = 300.0


@dataclass
class Cursor:
    """How far a run is: `done` updates of `part` of `phase`, in online round `round`."""

    phase: str = PHASES[0]
    done: int = 0
    round: int = 0
    part: str = "collect"


class Run:
    """A run folder opened for training, fresh or resumed, and everything that trains in it."""

    def __init__(
        self,
        folder: Path,
        settings: Config,
        screen: Screen,
        track: str,
        start: float,
        profiled: tuple[int, int] | None = None,
        resume_folder: Path | None = None,
    ) -> None:
        self.folder, self.config, self.screen = folder, settings, screen
        self._resume_folder = resume_folder or folder  # what to go on with, where this run is a part of another
        self.start = start
        self.lock = lock_folder(folder)
        self.restored, complaints = checkpoint.load_newest(self._kept)
        if complaints and self.restored is None:
            raise UserError(complaints[0])
        for line in complaints:
            screen.warn(f"{line}; an older one is used")
        self.compute = choose_compute(choose_device(settings.device), settings.precision, settings.compile)
        torch.manual_seed(settings.seed)
        self.generator = torch.Generator(self.compute.device)
        self.generator.manual_seed(settings.seed)
        self.agent = Agent(settings, spec(settings.env.split(",")[0]), self.compute, restored=self.restored is not None)
        self.cursor = Cursor()
        self.updates = 0
        self.online: Decoding | None = None
        self._earlier_peaks: dict[str, float] = {}
        self.placement: str | None = None  # of the frames, in this run or the one that it resumes
        self.spent = TimeSpent()
        self._profiler = Profiler(profiled, folder / TRACES, self.compute.device)
        kept_log_bytes = None
        if self.restored:
            self._restore(self.restored)
            kept_log_bytes = self.restored.state["log_bytes"]
        if not (folder / "config.json").exists():
            (folder / "environment.json").write_text(json.dumps(machine(), indent=1))
            (folder / "config.json").write_text(config.to_json(settings))
        self.log = logger.MetricsLog(folder, track, self.start, kept_log_bytes)
        self._saved_s = time.monotonic()
        self._stop: int | None = None
        self._all_saved = False

    def load_videos(self, videos: ExpertVideos) -> None:
        """Places the training frames; the held-out episodes, with their labels, go to the health figures alone."""
        train, _ = videos.split(self.config.held_out)
        past, future = self.config.latent_actions.past_frames, self.config.latent_actions.future_frames
        self.store = FrameStore.from_episodes(train.frames, train.lengths, self.compute.device, self.config.frames_gb)
        if self.placement not in (None, self.store.placement):
            self.screen.warn(
                f"resume: the frames were placed as '{self.placement}', are as '{self.store.placement}': "
                "other windows are drawn from here on (--frames-gb sets the memory for them)"
            )
        self.placement = self.store.placement
        centres = self.store.windows(past, future)
        if self.config.still_share < 1:
            rng = np.random.default_rng(self.config.seed)
            kept = with_fewer_still(train.frames, centres.cpu().numpy(), self.config.still_share, rng)
            centres = torch.from_numpy(kept).to(centres.device)
        self.sampler = WindowSampler(self.store, past, future, self.generator, centres, self.config.frame_stack)
        self.held_out = health.held_out_windows(videos, self.config, self.compute)
        if self.held_out and self.held_out.unusable:
            self.screen.warn(f"{self.held_out.unusable}: figures that compare with true actions are left out")

    def health_generator(self) -> torch.Generator:
        """A generator for figures alone: drawing from it leaves training as it is."""
        generator = torch.Generator(self.compute.device)
        generator.manual_seed(self.config.seed + 1)
        return generator

    def before(self, phase: str) -> bool:
        """Whether the run has not finished `phase` yet."""
        return PHASES.index(self.cursor.phase) <= PHASES.index(phase)

    def enter(self, phase: str) -> None:
        """Moves the cursor to the start of a later phase and saves."""
        if PHASES.index(self.cursor.phase) < PHASES.index(phase):
            self.cursor = Cursor(phase)
            self.save()

    def finish_stage(self, stage: Stage, title: str) -> dict[str, float]:
        """Runs a stage to its end, from where a resumed run left it; returns the last metrics."""
        self._restore_stage(stage)
        figures: dict[str, float] = {}
        logged = stage.done
        part = self.cursor.phase if self.cursor.phase != "online" else stage.name
        with self.screen.bar(title, stage.updates, done=stage.done) as bar, self._profiler.stage():
            while stage.done < stage.updates:
                before, start = stage.done, time.perf_counter()
                with self._profiler.step(stage):
                    stage.step()
                self.cursor.done = stage.done
                self.updates += stage.done - before
                bar.advance(stage.done - before)
                if stage.done - logged >= _LOG_EVERY_UPDATES or stage.done == stage.updates:
                    logged = stage.done
                    figures = stage.read_metrics()
                    self._check_finite(stage, figures)
                    self.log.write(self.cursor.phase, self.updates, {"stage": stage.name, **figures})
                    bar.show(_few(figures))
                self.spent.add(part, stage.done - before, time.perf_counter() - start)
                self._profiler.end_of_step()
                self.yield_to_signals(stage)
        self.restored = None
        return figures

    def yield_to_signals(self, stage: Stage | None = None) -> None:
        """Saves when it is time; saves and raises Interrupted when a signal asked for an end."""
        if self._stop is None and time.monotonic() - self._saved_s < _SAVE_EVERY_S:
            return
        self.save(stage)
        if self._stop is not None:
            raise self._interrupted()

    def finish_training(self) -> None:
        """Saves the end of training; from here on a signal ends the run at once, for there is nothing left to save."""
        self.enter("done")
        self._all_saved = True
        if self._stop is not None:
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        code = 130 if self._stop == signal.SIGINT else 75
        return Interrupted(f"stopped; go on with: python -m bcvlr_fast.train --resume {self._resume_folder}", code)

    def save(self, stage: Stage | None = None) -> None:
        """Writes a checkpoint of the agent, the stage, the generator and the cursor; never one that diverged."""
        if not all(bool(p.isfinite().all()) for p in self.agent.parameters()):
            raise Diverged(f"{self.cursor.phase}: weights are not finite; the last checkpoint is kept: {self._kept}")
        kept = Checkpoint()
        kept.put_network("agent", self.agent)
        kept.tensors["generator"] = self.generator.get_state()
        for name, network in (stage.networks if stage else {}).items():
            kept.put_network(name, network)
        optimizers = dict(stage.optimizers) if stage else {}
        if self.online is not None:
            optimizers.update(self.online.optimizers)
        if isinstance(self.online, Online):
            kept.tensors["actions"] = torch.from_numpy(self.online.collector.taken())
            kept.state["frames"] = _digest(self.online.collector.frames)
        for name, optimizer in optimizers.items():
            kept.put_optimizer(name, optimizer)
        kept.state |= {
            "cursor": asdict(self.cursor),
            "updates": self.updates,
            "elapsed_s": time.monotonic() - self.start,
            "peaks": self.peaks(),
            "placement": self.placement,
            "attached": self.online is not None,
            "spent": self.spent.parts,
            "log_bytes": self.log.size_bytes(),
            "device": self.compute.device.type,
            "versions": versions(),
        }
        checkpoint.save(self._kept, self._checkpoint_step(), kept)
        self._saved_s = time.monotonic()

    def attach(self, online: Decoding) -> None:
        """From here on checkpoints hold the online phase too; a resumed one is brought to where it was.

        Raises UserError where the environments do not show the frames again that the log of actions led to.
        """
        if self.restored and self.restored.state.get("attached"):
            if isinstance(online, Online):
                self._replay_log(online, self.restored)
            for name, optimizer in online.optimizers.items():
                self.restored.get_optimizer(name, optimizer)
            online.round = self.cursor.round
        self.online = online

    def _replay_log(self, online: Online, saved: Checkpoint) -> None:
        actions = saved.tensors["actions"].numpy()
        with self.screen.bar("playing the run's actions again", total=len(actions), unit="interactions") as bar:
            for interactions in online.replay_log(actions):
                bar.advance(interactions)
                if self._stop is not None:  # what is saved stays
                    raise self._interrupted()
        if _digest(online.collector.frames) != saved.state["frames"]:
            why = "another CPU, GPU or driver draws other pixels"
            for package, before, now in _other_versions(saved):
                if package in DRAWN_BY:
                    why = f"the run is of {package} {before}, this is {now}"
            raise UserError(f"resume: {self.folder}: the same actions lead to other frames here: {why}")
        if self.cursor.part != "collect":  # this round's episodes are in the log already
            online.env.pop_episodes()

    def warn(self, phase: str, lines: list[str]) -> None:
        """Says that a phase looks broken, on the screen and for the report."""
        for line in lines:
            self.screen.warn(f"{phase}: {line}")
            self.log.write(phase, self.updates, {"warning": line})

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Within: the first signal asks for an end at the next update; a second SIGINT ends now."""

        def ask(number: int, _: FrameType | None) -> None:
            if self._stop is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = number
            if self._all_saved:
                raise self._interrupted()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, *ending_signals())}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def peaks(self) -> dict[str, float]:
        """Largest resident set of the run's own process so far, and memory of the GPU where there is one, in GB."""
        found = {"peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
        if self.compute.device.type == "cuda":
            found["peak_gpu_memory_gb"] = torch.cuda.max_memory_reserved(self.compute.device) / 1e9
        return {name: round(max(gb, self._earlier_peaks.get(name, 0.0)), 2) for name, gb in found.items()}

    def close(self) -> None:
        self.log.close()
        self.lock.close()

    @property
    def _kept(self) -> Path:
        return self.folder / "ckpt"

    def _checkpoint_step(self) -> int:
        """Rises with every checkpoint: phases first, then what they count."""
        interactions = self.online.collector.interactions if isinstance(self.online, Online) else 0
        return PHASES.index(self.cursor.phase) * 10**10 + self.updates + interactions

    def _restore(self, saved: Checkpoint) -> None:
        device = self.compute.device.type
        if device != saved.state["device"]:
            raise UserError(f"resume: {self.folder}: the run is on {saved.state['device']}, got device {device}")
        for package, before, now in _other_versions(saved):
            self.screen.warn(f"resume: {package} was {before}, is {now}: the numbers may differ")
        saved.get_network("agent", self.agent)
        self.generator.set_state(saved.tensors["generator"])
        self.cursor = Cursor(**saved.state["cursor"])
        self.updates = saved.state["updates"]
        self.start -= saved.state["elapsed_s"]
        self._earlier_peaks = saved.state["peaks"]
        self.placement = saved.state["placement"]
        self.spent = TimeSpent(saved.state.get("spent"))

    def _restore_stage(self, stage: Stage) -> None:
        if self.restored is None:
            return
        stage.done = self.cursor.done
        for name, network in stage.networks.items():
            self.restored.get_network(name, network)
        for name, optimizer in stage.optimizers.items():
            self.restored.get_optimizer(name, optimizer)

    def _check_finite(self, stage: Stage, figures: dict[str, float]) -> None:
        loss = figures["loss"]
        if not np.isfinite(loss):
            line = f"{stage.name}: loss is {loss} at update {stage.done}"
            self.log.write(self.cursor.phase, self.updates, {"warning": line})
            raise Diverged(f"{line}; the last checkpoint is kept: {self._kept}")


def _other_versions(saved: Checkpoint) -> list[tuple[str, str | None, str | None]]:
    """(package, version of the run, version here) where they differ."""
    here = versions()
    return [(name, old, here.get(name)) for name, old in saved.state["versions"].items() if old != here.get(name)]


def _digest(frames: np.ndarray) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()


def _few(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in list(figures.items())[:4])
