"""A run of given minutes: measures what updates cost here and divides the time over the phases."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bcvlr_fast.config.fields import flat
from bcvlr_fast.config.overlay import overlay
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.registry import costs_of, last_phase, planned_settings
from bcvlr_fast.methods.work import Costs, divide
from bcvlr_fast.runs.arguments import DEFAULT_MINUTES, PLAN, TimeLimit
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import write_whole
from bcvlr_fast.system.screen import Screen

_EVALUATED_STEPS = {"discrete": 4 * 300, "continuous": 2 * 500}
"""Approximate steps that the evaluation plays per episode: the policies that it plays, and the length of an episode."""
_REPORT_S = 15.0
_LEAST_FRAMES, _MOST_FRAMES = 0.25, 2.0
"""Bounds of the expert frames of a run, as multiples of the preset's."""
_MIN_LEARNING_S = 20.0


@dataclass(frozen=True)
class Plan:
    """Counts of updates that end a run after `minutes`, with the measured costs."""

    minutes: float
    counts: dict[str, int]
    """By dotted name of the setting."""
    cost_ms: dict[str, float]
    open: str = ""
    """Setting whose count is determined again when its phase begins. Empty: none."""

    @classmethod
    def load(cls, folder: Path) -> Plan | None:
        """The plan in a run folder; None if there is none. Raises UserError if it is damaged."""
        file = folder / PLAN
        try:
            return cls(**json.loads(file.read_text())) if file.exists() else None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"resume: {file}: expected the plan of a run ({error})") from None

    def save(self, folder: Path) -> None:
        """Writes the plan into a run folder."""
        write_whole(folder / PLAN, lambda part: part.write_text(json.dumps(asdict(self), indent=1)))


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
    costs = costs_of(settings, frames, planned_settings(settings.method))
    values = flat(settings)
    kept = {work.setting: values[work.setting] for work in costs.work if work.setting in limit.given}
    seconds = _seconds_left(settings, costs, limit.minutes, start) - costs.interactions_s
    if seconds < _MIN_LEARNING_S:
        needed = (60 * limit.minutes - seconds + _MIN_LEARNING_S) / 60
        raise UserError(f"minutes: expected at least {needed:.1f} here, got {limit.minutes:g}")
    counts = divide(costs.work, seconds, kept)
    rest = f"interactions and labels {costs.interactions_s + costs.labels_s:.0f} s"
    screen.say(f"plan for {limit.minutes:g} minutes: {_described(costs, counts)}, {rest}")
    last = planned_settings(settings.method)[-1] if last_phase(settings.method) else ""
    is_open = last in counts and last not in kept and len(settings.env) == 1
    plan = Plan(limit.minutes, counts, _cost_ms(costs), last if is_open else "")
    return overlay(settings, counts), plan


def replanned(settings: RunConfig, frames: int, plan: Plan, start: float, screen: Screen) -> tuple[RunConfig, Plan]:
    """As `planned`, for the open count of a plan alone, from the time that is left and the cost of its updates now."""
    with torch.random.fork_rng():  # a rerun from config.json, which measures nothing, draws the same numbers
        costs = costs_of(settings, frames, [plan.open])
    counts = divide(costs.work, _seconds_left(settings, costs, plan.minutes, start), {})
    screen.say(f"plan for the time that is left: {_described(costs, counts)}, planned {plan.counts[plan.open]:,}")
    plan = Plan(plan.minutes, plan.counts | counts, plan.cost_ms | _cost_ms(costs))
    return overlay(settings, counts), plan


def _seconds_left(settings: RunConfig, costs: Costs, minutes: float, start: float) -> float:
    """Time for updates and interactions, before the labels of the last phase, the evaluation and the report."""
    kind = "continuous" if spec(settings.first_env).actions.continuous else "discrete"
    evaluation_s = _EVALUATED_STEPS[kind] * settings.episodes * costs.interaction_s + _REPORT_S
    return 60 * minutes - (time.monotonic() - start) - len(settings.env) * evaluation_s - costs.labels_s


def _described(costs: Costs, counts: Mapping[str, int]) -> str:
    parts = []
    for work in costs.work:
        count = counts[work.setting]
        name = work.setting.removesuffix(".updates").removeprefix("online.").replace("_", " ")
        parts.append(f"{name} {count:,} ({count * work.cost_s:.0f} s)")
    return ", ".join(parts)


def _cost_ms(costs: Costs) -> dict[str, float]:
    return {work.setting: round(1e3 * work.cost_s, 3) for work in costs.work}
