"""A report: one self-contained HTML file, films, and a model card."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.evaluation import films, health, plots
from bcvlr_fast.evaluation.evaluation import RESULT
from bcvlr_fast.evaluation.health import HeldOut
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.policy import Policy
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training.metrics_log import read_metrics
from bcvlr_fast.videos import ExpertVideos, mp4

HEALTH = "health.json"


@dataclass(frozen=True)
class Subject:
    """The subject of a report."""

    policy: Policy
    expert: ExpertVideos
    """The expert's episodes to show beside the agent."""
    levels: np.ndarray | None
    """[E] levels of these episodes, if known."""
    held_out: HeldOut | None
    agent: Agent | None
    """BCV-LR's networks, for the diagnostics of latent actions; None for other methods."""
    title: str
    configuration: str
    """JSON text."""
    films: int
    """Number of films to write."""
    summary: str
    """What the policy was learned from, in a sentence for the model card."""


def write_report(folder: Path, subject: Subject) -> None:
    """Writes report.html, videos/*.mp4 and README.md from the metrics and the evaluation in `folder`.

    If PyAV is missing, as it may be on a compute node, the report says so and has no films. Raises UserError if the run
    has no evaluation yet.
    """
    result = folder / RESULT
    if not result.is_file():
        raise UserError(f"run: {folder}: not evaluated yet (python -m bcvlr_fast.evaluate {folder})")
    evaluation = json.loads(result.read_text())
    rows = read_metrics(folder)
    agent, held_out = subject.agent, subject.held_out
    latent = health.latent_report(agent, held_out) if held_out and agent else None
    actions = health.action_report(subject.policy, held_out, agent) if held_out else None
    figures = {**(latent.metrics() if latent else {}), **(actions.metrics() if actions else {})}
    (folder / HEALTH).write_text(json.dumps(figures, indent=1))
    parts = [
        _section("Scores", _scores(evaluation)),
        _section("Warnings", _warnings(rows)),
        _section("Learning curve", plots.learning_curve(rows, evaluation)),
        _section("Films: agent beside expert", _films(folder, subject)),
        _section("Losses", plots.losses(rows)),
        _section("Diagnostics on held-out frames", _health(latent, actions)),
    ]
    if isinstance(actions, health.DiscreteReport):
        parts.append(_section("True and decoded actions", plots.confusion(actions.confusion)))
    if latent:
        parts.append(_section("Code use on held-out frames", plots.code_use(latent.code_use)))
    parts.append(_section("Configuration", f"<pre>{html.escape(subject.configuration)}</pre>"))
    machine = (folder / "environment.json").read_text()
    parts.append(_section("Machine", f"<pre>{html.escape(machine)}</pre>"))
    page = _PAGE.format(title=html.escape(subject.title), body="\n".join(parts))
    (folder / "report.html").write_text(page)
    (folder / "README.md").write_text(_model_card(subject, evaluation))


def _scores(evaluation: dict[str, Any]) -> str:
    columns = (f"mean {evaluation['score']}", "standard error", "95 % interval", "episodes", "agent / expert")
    head = f"<tr><th>policy{''.join(f'<th>{column}' for column in columns)}</tr>"
    return f"<table>{head}{''.join(_score_rows(evaluation, '<tr><td>{}</tr>', '<td>'))}</table>"


def _score_rows(evaluation: dict[str, Any], form: str, between: str) -> list[str]:
    rows = []
    for name, score in evaluation["scores"].items():
        norm = evaluation["video_norm"].get(name)
        cells = (
            name,
            f"{score['mean']:.2f}",
            f"{score['standard_error']:.2f}",
            f"{score['low']:.2f} .. {score['high']:.2f}",
            str(score["episodes"]),
            "" if norm is None else f"{norm:.2f}",
        )
        rows.append(form.format(between.join(cells)))
    return rows


def _warnings(rows: list[dict[str, Any]]) -> str:
    lines = [f"<li>{html.escape(row['phase'])}: {html.escape(row['warning'])}" for row in rows if "warning" in row]
    return f"<ul class=warning>{''.join(lines)}</ul>" if lines else "<p>None.</p>"


def _health(latent: health.LatentReport | None, actions: health.Agreement | None) -> str:
    figures = {}
    if latent is not None:
        figures = {
            "world-model error / error of copying the last frame": f"{latent.error_of_copy:.3f}",
            "codebook perplexity, mean over codebooks": f"{latent.perplexity:.1f}",
            "unused codes": f"{latent.dead_codes} of {latent.codes}",
        }
    if latent is not None and latent.probe is not None:
        what = latent.probe_kind.replace("_", " ")
        figures[f"linear probe from latent to true action, {what}"] = f"{latent.probe:.1%}"
        figures["linear probe, chance level"] = f"{latent.probe_chance:.1%}"
    if isinstance(actions, health.ContinuousReport):
        if actions.labelling_explained is not None:
            figures["variance of expert actions explained by the labels d(p)"] = f"{actions.labelling_explained:.1%}"
        figures["variance of expert actions explained by the policy"] = f"{actions.policy_explained:.1%}"
    elif actions:
        if actions.labelling_accuracy is not None:
            figures["accuracy of the labels d(p)"] = f"{actions.labelling_accuracy:.1%}"
        figures["accuracy of the policy's greedy actions"] = f"{actions.policy_accuracy:.1%}"
    if not figures:
        return "<p>None.</p>"
    body = "".join(f"<tr><td>{name}<td>{value}</tr>" for name, value in figures.items())
    return f"<table>{body}</table>"


def _films(folder: Path, subject: Subject) -> str:
    if not mp4.available():
        return f"<p>PyAV is not installed: pip install av; python -m bcvlr_fast.report {folder}</p>"
    if not subject.films:
        return "<p>None requested (films=0).</p>"
    paths = films.write_films(subject.policy, subject.expert, subject.levels, folder / "videos", subject.films)
    return "".join(_video(path) for path in paths)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _video(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    film = f'<video controls loop muted src="data:video/mp4;base64,{data}"></video>'
    return f"<figure>{film}<figcaption>{path.stem}</figcaption></figure>"


def _model_card(subject: Subject, evaluation: dict[str, Any]) -> str:
    table = "\n".join(_score_rows(evaluation, "| {} |", " | "))
    card = subject.policy.card
    return f"""---
library_name: bcvlr_fast
tags: [reinforcement-learning, imitation-learning, learning-from-videos, {card.env.partition(":")[0]}]
---
# {card.method} policy for {card.env}

{subject.summary}

| policy | mean {evaluation["score"]} | standard error | 95 % interval | episodes | agent / expert |
|---|---|---|---|---|---|
{table}

Load it with `bcvlr_fast.load_policy(folder).act(frames)` and score it with `python -m bcvlr_fast.evaluate <folder>`.
`report.html` has everything else.
"""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #ddd; }}
svg {{ max-width: 100%; height: auto; }} figure {{ display: inline-block; margin: 0 1rem 1rem 0; }}
video {{ width: 28rem; max-width: 100%; image-rendering: pixelated; }}
figcaption {{ font-size: .85rem; color: #555; }}
pre {{ font-size: .8rem; background: #f6f6f6; padding: 1rem; overflow: auto; max-height: 24rem; }}
.warning {{ color: #a33; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""
