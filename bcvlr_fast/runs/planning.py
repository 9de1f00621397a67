"""A run of given minutes: measures what updates cost here and divides the time over the phases."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bcvlr_fast.config.fields import flat
from bcvlr_fast.config.overlay import overlay
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.registry import costs_of
from bcvlr_fast.methods.work import Costs, divide
from bcvlr_fast.runs.arguments import DEFAULT_MINUTES, PLAN, TimeLimit
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen

_EVALUATED_STEPS = {"discrete": 3 * 300, "continuous": 2 * 500}
"""Approximate steps that the evaluation plays per episode: the policies that it plays, and the length of an episode."""
_REPORT_S = 15.0
_LEAST_FRAMES, _MOST_FRAMES = 0.25, 2.0
"""Bounds of the expert frames of a run, as multiples of the preset's."""
_MIN_LEARNING_S = 20.0


@dataclass(frozen=True)
class Plan:
    """Counts of updates that end a run after `minutes`, with the measured costs."""

    minutes: float
    counts: Mapping[str, int]
    """By dotted name of the setting."""
    costs: Costs

    def save(self, folder: Path) -> None:
        """Writes the plan into a run folder."""
        cost_ms = {work.setting: round(1e3 * work.cost_s, 3) for work in self.costs.work}
        kept = {"minutes": self.minutes, "counts": self.counts, "cost_ms": cost_ms}
        (folder / PLAN).write_text(json.dumps(kept, indent=1))

    def describe(self) -> str:
        """The counts with their time, on one line."""
        parts = []
        for work in self.costs.work:
            count = self.counts[work.setting]
            name = work.setting.removesuffix(".updates").removeprefix("online.").replace("_", " ")
            parts.append(f"{name} {count:,} ({count * work.cost_s:.0f} s)")
        rest = f"interactions and labels {self.costs.fixed_s:.0f} s"
        return f"plan for {self.minutes:g} minutes: {', '.join(parts)}, {rest}"


def with_frames(settings: RunConfig, limit: TimeLimit) -> RunConfig:
    """`settings` with as many expert frames as pay within a limit, unless the user chose their number.

    The preset's number is for 15 minutes. With fewer frames a longer run clones them by heart; a shorter one has no
    time to record more. In continuous control, where frames are slow to render, the number stays.
    """
    if "expert_frames" in limit.given or spec(settings.first_env).actions.continuous:
        return settings
    times = min(max(limit.minutes / DEFAULT_MINUTES, _LEAST_FRAMES), _MOST_FRAMES)
    return overlay(settings, {"expert_frames": round(times * settings.expert_frames)})


def planned(settings: RunConfig, frames: int, limit: TimeLimit, start: float, screen: Screen) -> tuple[RunConfig, Plan]:
    """`settings` with counts of updates for a run that learns from `frames` frames within a limit and began at `start`
    (time.monotonic), and the plan.

    Raises UserError if there is too little time.
    """
    screen.say("measuring what updates cost here")
    costs = costs_of(settings, frames)
    values = flat(settings)
    kept = {work.setting: values[work.setting] for work in costs.work if work.setting in limit.given}
    actions = spec(settings.first_env).actions
    played_steps = _EVALUATED_STEPS["continuous" if actions.continuous else "discrete"] * settings.episodes
    evaluation_s = len(settings.env) * (played_steps * costs.interaction_s + _REPORT_S)
    seconds = 60 * limit.minutes - (time.monotonic() - start) - evaluation_s - costs.fixed_s
    if seconds < _MIN_LEARNING_S:
        needed = (60 * limit.minutes - seconds + _MIN_LEARNING_S) / 60
        raise UserError(f"minutes: expected at least {needed:.1f} here, got {limit.minutes:g}")
    plan = Plan(limit.minutes, divide(costs.work, seconds, kept), costs)
    screen.say(plan.describe())
    return overlay(settings, plan.counts), plan
