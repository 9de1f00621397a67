"""The plots of the report, as SVG text."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
_PANELS_A_ROW = 3
_NOT_LOSSES = {"phase", "step", "time_s", "stage", "warning"}


def learning_curve(rows: Rows, evaluation: dict[str, Any]) -> str:
    """Training scores over interactions, with the final scores of the agent, random play and the expert as lines."""
    kind = evaluation["score"]
    points = [(r["interactions"], r[kind]) for r in rows if r.get("stage") == "round" and r.get(kind) is not None]
    figure, axes = plt.subplots(figsize=(8, 3.6))
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", label="training episodes, exploration included")
    styles = {"sampled": "C0", "greedy": "C1", "unstuck": "C3", "random": "C7", "expert": "C2"}
    for name, score in evaluation["scores"].items():
        axes.axhline(
            score["mean"], color=styles[name], linestyle="--", linewidth=1, label=f"{name} {score['mean']:.2f}"
        )
    axes.set_xlabel("interactions")
    axes.set_ylabel(kind)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return _svg(figure)


def losses(rows: Rows) -> str:
    """One panel per learner with every logged metric over the updates."""
    stages: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        stage = row.get("stage")
        if stage in (None, "round", "health", "evaluation"):
            continue
        for name, value in row.items():
            if name not in _NOT_LOSSES and isinstance(value, int | float):
                key = stage if row["phase"] in ("online", stage) else f"{row['phase']}"
                stages[key][name].append((row["step"], value))
    if not stages:
        return "<p>No updates were logged.</p>"
    rows_of_panels = -(-len(stages) // _PANELS_A_ROW)
    size = (4.2 * _PANELS_A_ROW, 3.4 * rows_of_panels)
    figure, panels = plt.subplots(rows_of_panels, _PANELS_A_ROW, figsize=size, squeeze=False)
    for axes in panels.flat[len(stages) :]:
        axes.axis("off")
    for axes, (stage, series) in zip(panels.flat, stages.items(), strict=False):
        for name, points in series.items():
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axes.set_title(stage, fontsize=10)
        axes.set_xlabel("updates", fontsize=8)
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.legend(fontsize=6, frameon=False)
    return _svg(figure)


def confusion(counts: list[list[int]]) -> str:
    """True actions by row and decoded actions by column; every row is normalized to one."""
    matrix = np.array(counts, np.float64)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(6, 5))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(matrix)))
    axes.set_yticks(range(len(matrix)), [f"{i}  ({int(n)})" for i, n in enumerate(matrix.sum(axis=1))], fontsize=8)
    axes.set_xlabel("decoded action")
    axes.set_ylabel("true action (windows)")
    figure.colorbar(image, label="fraction of the true action's windows")
    return _svg(figure)


def code_use(shares: np.ndarray) -> str:
    """The use [K, M] of each code, sorted within its codebook."""
    figure, axes = plt.subplots(figsize=(8, 2.8))
    for book, row in enumerate(shares):
        axes.step(range(len(row)), np.sort(row)[::-1], where="mid", label=f"codebook {book}")
    axes.set_xlabel("code, by use")
    axes.set_ylabel("fraction")
    axes.legend(frameon=False)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight")
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
