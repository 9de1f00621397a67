"""Time, FLOP and utilization of a whole run, and a projection for scale `paper`.

python bench/bench_run.py [--scale quick|paper] [--run RUN]

Runs `python -m bcvlr_fast.train`, or takes the finished RUN, and compares the updates per second of each phase with
their counted FLOP and with this machine's measured peak. The projection times steps of each phase at scale `paper`; it
omits evaluation, the report, and labeling the videos before pre-imitation. On a GPU, a profile of replayed steps shows
which fraction of the time it computes, and what. Rows go to results/runs.jsonl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bcvlr_fast.config.presets import SCALES
from bcvlr_fast.kernels import reference_only
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.bcvlr.synthetic import PHASES, learner_of, random_frames, store_of
from bcvlr_fast.methods.registry import read_config
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import machine, usable_cores
from bcvlr_fast.training.compute import Compute, configured_compute, measured_tflops
from bcvlr_fast.training.learner import Learner
from rows import RESULTS, Row, write

_FRAMES, _FRAMES_PROJECTED = 20_000, 2_000
_TOP_KERNELS = 10


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="procgen:bossfight")
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--run", type=Path, help="finished run to measure in place of a new one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--without-projection", action="store_true", help="skip the projection for scale paper")
    arguments, flags = parser.parse_known_args()
    folder = arguments.run or _train(arguments, flags)
    settings = read_config(folder / "config.json", Config)
    there, here = json.loads((folder / "environment.json").read_text()), machine()
    if (there["cpu"], there["gpu"]) != (here["cpu"], here["gpu"]):
        raise UserError(f"run: {folder} ran on {there['gpu'] or there['cpu']}, not on this machine")
    compute = configured_compute(settings)
    torch.set_num_threads(usable_cores())
    peak = max(measured_tflops(compute), _product_tflops(compute))
    status = json.loads((folder / "status.json").read_text())
    row: Row = {
        "env": settings.first_env,
        "scale": settings.preset,
        "precision": compute.precision,
        "commit": there["commit"],
        "peak_tflops": peak,
        **{name: value for name, value in status.items() if name != "spent"},
        "parts": _parts(status["spent"], settings, compute, peak),
    }
    print(table(row))
    if not arguments.without_projection:
        row["projection"] = _projection(settings.first_env, status["spent"], compute, peak)
        print(projection_table(row["projection"]))
    write(arguments.rows / "runs.jsonl", [row], lambda r: (r["env"], r["scale"], r["precision"]), compute.device)


def table(row: Row) -> str:
    """Markdown table of the phases of a run."""
    total = row["minutes"] * 60
    lines = [
        f"{row['env']}, scale {row['scale']}, {row['precision']}: {row['minutes']:.1f} minutes, "
        f"peak {row['peak_tflops']:.3f} TFLOP/s, memory {row['peak_memory_gb']} GB\n",
        "| part | seconds | share | a second | GFLOP each | TFLOP/s | of peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in row["parts"]:
        rate = f"{part['per_second']:.3g} {part['unit']}"
        work = ["", "", ""]
        if "gflop" in part:
            work = [f"{part['gflop']:.3g}", f"{part['tflops']:.3g}", f"{part['share_of_peak']:.0%}"]
        cells = [part["part"], f"{part['seconds']:.1f}", f"{part['seconds'] / total:.0%}", rate, *work]
        lines.append(f"| {' | '.join(cells)} |")
    rest = total - sum(part["seconds"] for part in row["parts"])
    lines.append(f"| recording, saving, start | {rest:.1f} | {rest / total:.0%} | | | | |")
    return "\n".join(lines)


def projection_table(projection: Row) -> str:
    """Markdown table of the projected times of a run at scale `paper`."""
    lines = [
        f"\nA run at scale paper here: {projection['hours']:.3g} hours\n",
        "| phase | updates | ms each | hours | TFLOP/s | of peak |" + (" busy |" if projection["on_gpu"] else ""),
        "|---|---|---|---|---|---|" + ("---|" if projection["on_gpu"] else ""),
    ]
    for part in projection["parts"]:
        busy = f" {part['busy']:.1%} |" if projection["on_gpu"] and "busy" in part else ""
        work = f"{part['tflops']:.3g} | {part['share_of_peak']:.0%}" if "tflops" in part else " | "
        lines.append(f"| {part['phase']} | {part['count']} | {part['ms']:.4g} | {part['hours']:.3g} | {work} |{busy}")
    for phase, kernels in projection.get("kernels", {}).items():
        lines += [f"\n{phase}: longest kernels, share of the GPU's busy time\n"]
        lines += [f"    {share:6.1%}  {name}" for name, share in kernels]
    return "\n".join(lines)


def _train(arguments: argparse.Namespace, flags: list[str]) -> Path:
    folder = Path(tempfile.mkdtemp()) / "run"
    train = ["-m", "bcvlr_fast.train", "--env", arguments.env, "--preset", arguments.scale, "--out", str(folder)]
    subprocess.run([sys.executable, *train, "--device", arguments.device, *flags], check=True)
    return folder


def _parts(spent: dict[str, dict[str, float]], settings: Config, compute: Compute, peak: float) -> list[Row]:
    store = store_of(random_frames(_FRAMES), compute.device)
    gflop = {}
    for phase in (*PHASES, "pre-imitation"):
        learner = learner_of(phase, settings, compute, store)
        gflop[phase.replace("-", "_") if phase == "pre-imitation" else learner.name] = _gflop(learner)
    units = {"collecting": "interactions", "evaluation": "episodes", "report": "reports"}
    found = []
    for name, known in spent.items():
        row: Row = {"part": name, **known, "unit": units.get(name, "updates")}
        row["per_second"] = known["count"] / known["seconds"]
        if name in gflop:
            row["gflop"] = gflop[name]
            row["tflops"] = gflop[name] * row["per_second"] / 1e3
            row["share_of_peak"] = row["tflops"] / peak
        found.append(row)
    return found


def _projection(env: str, spent: dict[str, dict[str, float]], compute: Compute, peak: float) -> Row:
    settings = preset(env, "paper")
    online = settings.online
    kept = [min(online.round_end(number), online.capacity) for number in range(online.rounds)]
    counts = {
        "features": settings.features.updates,
        "latent actions": settings.latent_actions.updates,
        "pre-imitation": settings.policy.updates,
        "cloning": online.rounds * online.clone_updates,
        "fine-tuning": sum(map(online.finetune_updates_for, kept)),
    }
    store = store_of(random_frames(_FRAMES_PROJECTED), compute.device)
    parts, kernels = [], {}
    for phase, count in counts.items():
        learner = learner_of(phase, settings, compute, store)
        work = _gflop(learner)
        seconds, busy, longest = _timed(learner, compute)
        part: Row = {"phase": phase, "count": count, "ms": seconds * 1e3, "hours": count * seconds / 3600}
        part["tflops"] = work / seconds / 1e3
        part["share_of_peak"] = part["tflops"] / peak
        if compute.device.type == "cuda":
            part["busy"], kernels[phase] = busy, longest
        parts.append(part)
    collecting = spent["collecting"]["seconds"] / spent["collecting"]["count"]
    parts.append(
        {
            "phase": "interactions, as in the run above",
            "count": online.interactions,
            "ms": collecting * 1e3,
            "hours": online.interactions * collecting / 3600,
        }
    )
    hours = sum(part["hours"] for part in parts)
    return {"hours": hours, "parts": parts, "kernels": kernels, "on_gpu": compute.device.type == "cuda"}


def _gflop(learner: Learner) -> float:
    """Counted GFLOP of an update, with torch's convolutions, which the counter supports."""
    learner.step()
    before = learner.done
    with reference_only(), FlopCounterMode(display=False) as counter:
        learner._run(learner.together)
    assert learner.done == before
    return float(counter.get_total_flops()) / learner.together / 1e9


def _timed(learner: Learner, compute: Compute) -> tuple[float, float, list[tuple[str, float]]]:
    """(seconds per update, fraction of them that the GPU computes, its longest kernels with their fractions)."""
    on_gpu = compute.device.type == "cuda"
    steps = 5 if on_gpu else 1
    for _ in range(4 if on_gpu else 1):
        learner.step()
    if on_gpu:
        torch.cuda.synchronize()
    start, before = time.perf_counter(), learner.done
    for _ in range(steps):
        learner.step()
    if not on_gpu:
        return (time.perf_counter() - start) / (learner.done - before), 1.0, []
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / (learner.done - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            learner.step()
        torch.cuda.synchronize()
    return seconds, *_busy(profile)


def _busy(profile: Any) -> tuple[float, list[tuple[str, float]]]:
    """Fraction of the time in which a kernel runs, and the longest kernels by name, from their spans."""
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in profile.events()
        if event.device_type.name == "CUDA"
    )
    busy, reached = 0.0, spans[0][0]
    by_name: dict[str, float] = {}
    for start, end, name in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
        by_name[name] = by_name.get(name, 0.0) + end - start
    longest = sorted(by_name.items(), key=lambda item: -item[1])[:_TOP_KERNELS]
    total = sum(by_name.values())
    return busy / (reached - spans[0][0]), [(name, value / total) for name, value in longest]


def _product_tflops(compute: Compute) -> float:
    """TFLOP/s of a large matrix product in the number format of the run: the peak that utilization refers to."""
    size = 8192 if compute.device.type == "cuda" else 2048
    a = torch.randn(size, size, device=compute.device, dtype=compute.dtype)

    def once() -> float:
        start = time.perf_counter()
        _ = a @ a
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return 2 * size**3 / min(once() for _ in range(10)) / 1e12


if __name__ == "__main__":
    sys.exit(call(main))
