"""Distills a reactive expert of Procgen into a network, with checkpoints, scores it, and saves its weights."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from bcvlr_fast.experts.distill import Collected, DistillConfig, Student, Weights, collect
from bcvlr_fast.experts.expert import WEIGHTS_SUFFIX
from bcvlr_fast.experts.measuring import best_temperature, check_same, save_measured
from bcvlr_fast.experts.network import ActorCritic, load_network
from bcvlr_fast.experts.procgen import REACTIVE
from bcvlr_fast.experts.simulator import check_installed
from bcvlr_fast.system.errors import Diverged, UserError
from bcvlr_fast.system.files import cache_folder, check_writable, lock_folder
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.system.workers import worker_pool
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training.compute import Compute, choose_compute, choose_device

_SAVE_EVERY_S = 120.0
_CHECK_EVERY_UPDATES = 4000
_REFILLED_FRAMES = 100_000
"""Frames to collect before a network learns on."""


def make_weights(
    game: str,
    updates: int,
    seed: int,
    workers: int,
    *,
    device: str,
    precision: str,
    start_from: Path | None,
    out: Path | None,
    screen: Screen,
) -> Path:
    """Distills the reactive expert of a game into the file `out`, by default one in the cache, and returns it.

    The network starts with the weights in `start_from`, if given. A stopped distillation continues. Raises UserError if
    the game has no reactive expert, the simulator is missing, or a file cannot be used, and Diverged if the loss is not
    finite.
    """
    if game not in REACTIVE:
        raise UserError(f"expert: --distill has no reactive expert of {game} (it has those of {', '.join(REACTIVE)})")
    file = out or cache_folder() / "experts" / f"procgen-{game}-s{seed}{WEIGHTS_SUFFIX}"
    if file.suffix != WEIGHTS_SUFFIX:
        raise UserError(f"out: expected a file named {WEIGHTS_SUFFIX}, got {file}")
    check_writable(file.parent, "out")
    check_installed()
    config, first, about_first = DistillConfig(updates=updates), None, None
    compute = choose_compute(choose_device(device), precision, optimizer=config.optimizer)
    if compute.device.type == "cpu":
        torch.set_num_threads(usable_cores())
    if start_from is not None:
        first, about_first = load_network(start_from, f"procgen:{game}")
        config = replace(config, network=first.sizes)
    with lock_folder(file.with_suffix("")):
        student, minutes, curve = distill(game, config, file.with_suffix(""), compute, seed, workers, screen, first)
        about = {"made_by": "distill", "seed": seed, **asdict(config), "curve": curve, "minutes": round(minutes, 1)}
        save_measured(file, student.network, game, about, about_first, compute, screen)
    return file


def distill(
    game: str,
    config: DistillConfig,
    folder: Path,
    compute: Compute,
    seed: int,
    workers: int,
    screen: Screen,
    first: ActorCritic | None = None,
) -> tuple[Student, float, list[list[float]]]:
    """Returns (student, minutes, learning curve of [updates, mean return]), from the folder's newest checkpoint if any.

    Raises UserError if the folder has only damaged checkpoints or one with other settings, and Diverged if the loss is
    not finite.
    """
    student = Student(config, compute, seed)
    if first is not None:
        student.network.load_state_dict(first.state_dict())
    about = {"game": game, "seed": seed, **asdict(config)}
    kept = checkpoint.load_to_resume(folder, screen.warn)
    curve: list[list[float]] = []
    before, refilled = 0.0, 0 if first is None else _REFILLED_FRAMES
    if kept:
        check_same(folder, kept["about"], about)
        student.load_state_dict(kept["student"])
        curve, before, refilled = kept["curve"], kept["minutes"], _REFILLED_FRAMES
    start = saved = time.monotonic()

    def minutes() -> float:
        return before + (time.monotonic() - start) / 60

    def save() -> None:
        state = {"about": about, "student": student.state_dict(), "curve": curve, "minutes": minutes()}
        checkpoint.save(folder, student.done, state)

    title = f"distilling {game}"
    first_seed = seed * 10_000 + student.done  # a resumed distillation plays other levels
    with (
        screen.bar(title, config.updates, done=student.done) as bar,
        _stages(game, config, first_seed, workers or usable_cores()) as play_on,
    ):
        while student.done < config.updates:
            parts = play_on(student.weights, max(config.expert_share, 1 - student.done / config.annealing_updates))
            new_frames = sum(len(part.frames) for part in parts)
            for part in parts:
                student.add(part)
            if student.added < refilled or not new_frames:
                continue
            begun = student.done
            updates = math.ceil(config.samples_per_frame * new_frames / config.batch_size)
            loss = student.learn(min(updates, config.updates - begun))
            if not loss < float("inf"):
                raise Diverged(f"distill: the loss is not finite after {student.done:,} updates; {folder} has the rest")
            bar.advance(student.done - begun)
            on_new, agreement = np.mean([(part.loss, part.agreement) for part in parts], axis=0)
            bar.show(f"loss {loss:.3f}  on new frames {on_new:.3f}  agreement {agreement:.0%}")
            if student.done // _CHECK_EVERY_UPDATES > begun // _CHECK_EVERY_UPDATES:
                temperature, mean = best_temperature(student.network, game, compute)
                curve.append([student.done, round(mean, 2)])
                screen.say(f"after {student.done:,} updates: return {mean:.2f} at temperature {temperature:g}")
            if time.monotonic() - saved > _SAVE_EVERY_S or student.done == config.updates:
                save()
                saved = time.monotonic()
    return student, minutes(), curve


@contextlib.contextmanager
def _stages(
    game: str, config: DistillConfig, seed: int, workers: int
) -> Iterator[Callable[[Weights, float], list[Collected]]]:
    """Context with a function that plays an iteration in every worker: (weights, share of the expert) -> frames."""
    died = f"distill: a worker died (is there memory for {workers}? --workers sets fewer)"
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(worker_pool(1, died=died)) for _ in range(workers)]

        def play_on(weights: Weights, expert_share: float) -> list[Collected]:
            futures = [
                pool.submit(collect, game, config, seed + number, weights, expert_share)
                for number, pool in enumerate(pools)
            ]
            return [future.result() for future in futures]

        yield play_on
