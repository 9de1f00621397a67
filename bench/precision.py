"""Compares the losses of bf16 and float32 training: python bench/precision.py [--videos FOLDER]

Trains the phases at scale `quick` (smaller batch on a CPU) for 2,000 updates, with several seeds per precision. Reports
the mean loss over the last tenth of the updates, and the difference between precisions beside the spread of the seeds.
Frames are those of an expert recorded by `python -m bcvlr_fast.record`; fine-tuning uses their evaluation labels as
actions. Rows go to results/precision.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.experts import find_expert
from bcvlr_fast.experts.recorder import default_folder
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.bcvlr.synthetic import PHASES, learner_of
from bcvlr_fast.system.command import call
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.training.compute import Compute, choose_compute, choose_device
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos import open_videos
from rows import RESULTS, Row, write

_ENV = "procgen:bossfight"
_BATCH_ON_CPU = 32
_EPISODES = 40


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=default_folder(find_expert(_ENV)))
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--seeds", type=int, choices=range(2, 100), default=3, metavar="N")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(usable_cores())
    device = choose_device(arguments.device)
    videos = open_videos(arguments.videos, FRAME_SHAPE)
    lengths = videos.lengths[:_EPISODES]
    store = FrameStore.from_episodes(videos.frames[: int(lengths.sum())], lengths, device)
    labels = evaluation_labels.load_labels(arguments.videos)
    if labels is None:
        raise UserError(f"videos: {arguments.videos} has no labels, which this benchmark uses as actions")
    rows = []
    for phase in arguments.phases:
        losses = {
            precision: [
                _final_loss(phase, choose_compute(device, precision), store, seed, arguments.updates, labels.action)
                for seed in range(arguments.seeds)
            ]
            for precision in ("fp32", "bf16")
        }
        rows.append(_row(phase, losses, arguments.updates))
        print(_line(rows[-1]), flush=True)
    write(arguments.rows / "precision.jsonl", rows, lambda row: (row["phase"], row["updates"]), device)


def _final_loss(phase: str, compute: Compute, store: FrameStore, seed: int, updates: int, actions: np.ndarray) -> float:
    settings = preset(_ENV, "quick")
    if compute.device.type == "cpu":
        for section, field in (
            ("features", "batch_size"),
            ("latent_actions", "batch_size"),
            ("online", "clone_batch_size"),
            ("online", "finetune_batch_size"),
        ):
            settings = replace_in(settings, section, **{field: _BATCH_ON_CPU})
    learner = learner_of(phase, settings, compute, store, seed, actions.astype(np.int64))
    while learner.done < updates - updates // 10:
        learner.step()
    learner.read_metrics()
    while learner.done < updates:
        learner.step()
    return learner.read_metrics()["loss"]


def _row(phase: str, losses: dict[str, list[float]], updates: int) -> Row:
    means = {precision: statistics.mean(values) for precision, values in losses.items()}
    spreads = [statistics.stdev(values) for values in losses.values()]
    seeds = len(losses["fp32"])
    error = (sum(s**2 for s in spreads) / seeds) ** 0.5  # standard error of the difference of the means
    return {
        "phase": phase,
        "updates": updates,
        "losses": losses,
        "difference": means["bf16"] - means["fp32"],
        "standard_error": error,
    }


def _line(row: Row) -> str:
    shown = "  ".join(f"{p}: {', '.join(f'{v:.4g}' for v in values)}" for p, values in row["losses"].items())
    return f"{row['phase']:15s} {shown}  difference {row['difference']:+.2g}, its error {row['standard_error']:.2g}"


if __name__ == "__main__":
    sys.exit(call(main))
