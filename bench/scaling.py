"""How cost grows with batch size, stored frames and environments: python bench/scaling.py [--scale quick|paper]

Measures updates per second of each phase by batch size; of the features phase by number of stored frames, which beyond
the memory budget stream from a sparse file, and from a real file of four times the budget, read from the disk; and
environment steps per second by number of environments, alone and with the policy acting. Rows go to
results/scaling.jsonl, table and plot to docs/scaling.md and docs/scaling.png.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.config.presets import SCALES
from bcvlr_fast.envs import make, spec
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.bcvlr.synthetic import PHASES, learner_of, random_frames, store_of
from bcvlr_fast.methods.policy import Actor
from bcvlr_fast.system.host import machine, usable_cores
from bcvlr_fast.training.compute import Compute, choose_compute, choose_device
from rows import RESULTS, Row, write

_ENV = "procgen:bossfight"
_BATCHES = (32, 64, 128, 256, 512, 1024, 2048)
_FRAMES = (10_000, 100_000, 1_000_000, 8_000_000)
_ENVS = (16, 32, 64, 128, 256, 512, 1024)
_BUDGET_FRAMES = 80_000  # a gigabyte
_SECONDS = 2.0
_FIELDS = {  # phase: the section of the configuration and the field of its batch size
    "features": ("features", "batch_size"),
    "latent actions": ("latent_actions", "batch_size"),
    "cloning": ("online", "clone_batch_size"),
    "fine-tuning": ("online", "finetune_batch_size"),
}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, help="network sizes; default: paper on a GPU, else quick")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    arguments = parser.parse_args()
    compute = choose_compute(choose_device(arguments.device), "auto")
    torch.set_num_threads(usable_cores())
    scale = arguments.scale or ("paper" if compute.device.type == "cuda" else "quick")
    settings = preset(_ENV, scale)
    rows = []
    measured = itertools.chain(_by_batch(settings, compute), _by_frames(settings, compute), _by_envs(settings, compute))
    for row in measured:
        rows.append({"scale": scale, "threads": torch.get_num_threads(), **row})
        print("  ".join(str(value) for value in row.values()), flush=True)
    write(
        arguments.rows / "scaling.jsonl",
        rows,
        lambda row: (row["scale"], row["what"], row["against"], row["size"]),
        compute.device,
    )
    (arguments.docs / "scaling.md").write_text(document(rows))
    plot(rows).savefig(arguments.docs / "scaling.png", dpi=110)
    print(f"{arguments.docs / 'scaling.md'}, {arguments.docs / 'scaling.png'}")


def _row(what: str, against: str, size: int, per_second: float, **more: Any) -> Row:
    return {"what": what, "against": against, "size": size, "per_second": float(f"{per_second:.4g}"), **more}


def _by_batch(settings: Config, compute: Compute) -> Iterator[Row]:
    store = store_of(random_frames(20_000), compute.device)
    for phase in PHASES:
        section, field = _FIELDS[phase]
        for size in _BATCHES:
            learner = learner_of(phase, replace_in(settings, section, **{field: size}), compute, store)
            yield _row(phase, "windows in a batch", size, _updates_per_second(learner, compute))


def _by_frames(settings: Config, compute: Compute) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for count in _FRAMES:
            file = Path(folder) / "sparse.npy"
            frames = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, *FRAME_SHAPE))
            store = store_of(frames, compute.device)
            learner = learner_of("features", settings, compute, store)
            speed = _updates_per_second(learner, compute)
            yield _row("features", "frames in the store", count, speed, placement=store.placement)
            file.unlink()
        file = Path(folder) / "real.npy"
        np.save(file, np.tile(random_frames(_BUDGET_FRAMES), (4, 1, 1, 1)))
        for what, count, budget_gb in (("within", _BUDGET_FRAMES, 0.0), ("4 times", 4 * _BUDGET_FRAMES, 1.0)):
            _forget(file)
            store = store_of(np.load(file, mmap_mode="r")[:count], compute.device, budget_gb)
            learner = learner_of("features", settings, compute, store)
            speed = _updates_per_second(learner, compute, before=functools.partial(_forget, file))
            against = f"frames on disk, {what} the budget of 1 GB"
            yield _row("features", against, count, speed, placement=store.placement)


def _forget(file: Path) -> None:
    """Drops the file from the system's cache, so that reads go to the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _by_envs(settings: Config, compute: Compute) -> Iterator[Row]:
    agent = Agent(settings, spec(settings.first_env), compute)
    rng = np.random.default_rng(0)
    for size in _ENVS:
        env = make(_ENV, size, 0)
        frames = env.reset()
        actor = Actor(agent.acting_policy(), size, torch.Generator(compute.device))

        def alone(env: Any = env, size: int = size) -> None:
            env.step(env.spec.actions.draw(rng, size))

        def acting(env: Any = env, frames: np.ndarray = frames, actor: Actor = actor) -> None:
            frames[:] = env.step(actor(frames)).next_frames()

        for what, step in (("environments", alone), ("environments and policy", acting)):
            yield _row(what, "environments", size, size / _seconds(step))
        env.close()


def _updates_per_second(learner: Any, compute: Compute, before: Callable[[], None] = lambda: None) -> float:
    def step() -> None:
        before()
        learner.step()
        if compute.device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(4 if compute.device.type == "cuda" else 1):
        step()
    return float(learner.together / _seconds(step))


def _seconds(step: Callable[[], None]) -> float:
    """Mean seconds per call over at least two seconds and two calls, after one warm-up call."""
    step()
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < _SECONDS:
        step()
        calls += 1
    return (time.perf_counter() - start) / calls


def document(rows: list[Row]) -> str:
    """Text of docs/scaling.md."""
    here = machine()
    lines = [
        "# How cost grows\n",
        f"Written by `python bench/scaling.py` on {here['gpu'] or here['cpu']}, {rows[0]['threads']} threads, torch "
        f"{here['torch']}, {here['date']}, networks of scale `{rows[0]['scale']}`. Updates or environment steps "
        "per second.\n",
        "![plot](scaling.png)",
    ]
    for against in dict.fromkeys(row["against"] for row in rows if not row["against"].startswith("frames on disk")):
        here_rows = [row for row in rows if row["against"] == against]
        sizes = sorted({row["size"] for row in here_rows})
        lines += [f"\n| {against} | {' | '.join(f'{size:,}' for size in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
        for what in dict.fromkeys(row["what"] for row in here_rows):
            found = {row["size"]: row for row in here_rows if row["what"] == what}
            cells = [f"{found[size]['per_second']:.4g}" + _placed(found[size]) for size in sizes]
            lines.append(f"| {what} | {' | '.join(cells)} |")
    lines.append("\n| frames on disk, none in its cache | frames | placement | updates per second |\n|---|---|---|---|")
    for row in rows:
        if row["against"].startswith("frames on disk"):
            name = row["against"].removeprefix("frames on disk, ")
            lines.append(f"| {name} | {row['size']:,} | {row['placement']} | {row['per_second']:.4g} |")
    return "\n".join(lines) + "\n"


def _placed(row: Row) -> str:
    return f" ({row['placement']})" if "placement" in row else ""


def plot(rows: list[Row]) -> Figure:
    """One panel for each quantity that grows."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    against = [a for a in dict.fromkeys(row["against"] for row in rows) if not a.startswith("frames on disk")]
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(against))), against, strict=True):
        for what in dict.fromkeys(row["what"] for row in rows if row["against"] == name):
            points = [(r["size"], r["per_second"]) for r in rows if r["against"] == name and r["what"] == what]
            axes.plot(*zip(*points, strict=True), marker="o", label=what)
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.set_ylabel("steps per second" if name == "environments" else "updates per second")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, high / 10), high)  # at least a decade, or noise would look like growth
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
