"""A run of given minutes: how time is divided over the phases, and which settings stay."""

import dataclasses
import time
from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from bcvlr_fast.config.fields import flat
from bcvlr_fast.config.files import read_saved
from bcvlr_fast.methods import work
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.registry import METHODS, costs_of, planned_settings
from bcvlr_fast.methods.work import Costs, Work, divide
from bcvlr_fast.runs import planning
from bcvlr_fast.runs.arguments import PLAN, TimeLimit, resolve
from bcvlr_fast.runs.planning import Plan
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen

QUIET = Screen(quiet=True)
WORK = (Work("a", 0.5, 1.0, 1000), Work("b", 0.1, 3.0, 1000))


def test_time_is_divided_by_shares() -> None:
    assert divide(WORK, 40.0, {}) == {"a": 20, "b": 300}


def test_what_a_maximum_leaves_goes_to_the_others() -> None:
    capped = (WORK[0], WORK[1]._replace(max=100))
    assert divide(capped, 40.0, {}) == {"a": 60, "b": 100}


def test_given_counts_stay_and_cost_their_time() -> None:
    assert divide(WORK, 40.0, {"a": 40}) == {"a": 40, "b": 200}


def test_every_phase_gets_an_update() -> None:
    assert divide(WORK, 0.1, {}) == {"a": 1, "b": 1}
    assert divide(WORK, -5.0, {"a": 7}) == {"a": 7, "b": 1}


def settings() -> Config:
    return dataclasses.replace(preset("procgen:bossfight", "quick"), episodes=10)


def costs(settings: Collection[str] = planned_settings("bcv-lr"), cost_s: float = 0.01, labels_s: float = 4.0) -> Costs:
    parts = tuple(Work(name, cost_s, 1.0, 1 << 30) for name in settings)
    return Costs(parts, 1e-4, 6.0, labels_s)


def test_the_plan_fills_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(planning, "costs_of", lambda *_: costs())
    limit = TimeLimit(5.0, frozenset({"final.updates"}))
    start = time.monotonic() - 20
    before = dataclasses.replace(settings(), final=dataclasses.replace(settings().final, updates=100))
    after, plan = planning.planned(before, 1000, limit, start, QUIET)
    evaluation_s = 4 * 10 * 300 * 1e-4 + 15
    learning_s = sum(0.01 * count for count in plan.counts.values())
    assert 20 + 10 + evaluation_s + learning_s == pytest.approx(300, abs=1)
    values = flat(after)
    assert {name: values[name] for name in plan.counts} == plan.counts
    assert values["final.updates"] == 100
    unchanged = {name for name, value in flat(before).items() if value == values[name]}
    assert set(values) - unchanged <= set(plan.counts)
    assert not plan.open
    plan.save(tmp_path)
    assert Plan.load(tmp_path) == plan


def test_a_damaged_plan_is_one_line(tmp_path: Path) -> None:
    (tmp_path / PLAN).write_text('{"minutes": 15, "cou')
    with pytest.raises(UserError, match=r"resume: .*plan\.json: expected the plan of a run"):
        Plan.load(tmp_path)
    (tmp_path / PLAN).write_text('{"hours": 1}')
    with pytest.raises(UserError, match="expected the plan of a run"):
        Plan.load(tmp_path)


def test_the_last_phase_is_planned_again_from_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "costs_of", lambda *_: costs())
    before, plan = planning.planned(settings(), 1000, TimeLimit(5.0), time.monotonic(), QUIET)
    assert plan.open == "final.updates"
    monkeypatch.setattr(planning, "costs_of", lambda *given: costs(given[-1], cost_s=0.02))
    random_state = torch.random.get_rng_state()
    after, replanned = planning.replanned(before, 1000, plan, time.monotonic() - 200, QUIET)
    left_s = 300 - 200 - 4 - (4 * 10 * 300 * 1e-4 + 15)
    assert replanned.counts["final.updates"] == pytest.approx(left_s / 0.02, abs=10)
    assert after.final.updates == replanned.counts["final.updates"]
    assert replanned == dataclasses.replace(plan, counts=replanned.counts, cost_ms=replanned.cost_ms, open="")
    assert {name for name in plan.counts if plan.counts[name] != replanned.counts[name]} == {"final.updates"}
    assert dataclasses.replace(after, final=before.final) == before
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_a_run_without_time_left_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "costs_of", lambda *given: costs(given[-1]))
    before, plan = planning.planned(settings(), 1000, TimeLimit(5.0), time.monotonic(), QUIET)
    _, replanned = planning.replanned(before, 1000, plan, time.monotonic() - 500, QUIET)
    assert replanned.counts["final.updates"] == 1


@pytest.mark.parametrize(
    ("env", "minutes", "given", "frames"),
    [
        ("procgen:maze", 15.0, (), 200_000),
        ("procgen:maze", 5.0, (), 66_667),
        ("procgen:maze", 1.0, (), 50_000),
        ("procgen:maze", 600.0, (), 400_000),
        ("procgen:maze", 60.0, ("expert_frames",), 200_000),
        ("dmc:finger_spin", 60.0, (), 50_000),
    ],
)
def test_expert_frames_grow_with_the_minutes(env: str, minutes: float, given: tuple[str, ...], frames: int) -> None:
    limit = TimeLimit(minutes, frozenset(given))
    assert planning.with_frames(preset(env, "quick"), limit).expert_frames == frames


def test_too_little_time_is_refused_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "costs_of", lambda *_: costs(labels_s=94.0))
    with pytest.raises(UserError, match=r"minutes: expected at least 2\.3 here, got 1"):
        planning.planned(settings(), 1000, TimeLimit(1.0), time.monotonic(), QUIET)


@pytest.mark.parametrize("method", METHODS)
def test_the_costs_of_a_method_are_those_of_its_planned_settings(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_MEASURED_S", 0.0)
    request = resolve(["--env", "procgen:bossfight", "--method", method, "--preset", "quick"])
    for asked in (planned_settings(method), planned_settings(method)[-1:]):
        found = costs_of(request.settings, 1000, asked)
        assert tuple(part.setting for part in found.work) == asked
        assert all(part.cost_s > 0 for part in found.work)
        assert found.interaction_s > 0


@pytest.mark.parametrize(
    ("arguments", "minutes"),
    [
        ([], 15.0),
        (["--minutes", "3"], 3.0),
        (["--preset", "quick"], None),
        (["--preset", "quick", "--minutes", "60"], 60.0),
        (["--features.updates", "5"], None),
        (["--features.updates", "5", "--minutes", "4"], 4.0),
        (["--seed", "3"], 15.0),
    ],
)
def test_a_cpu_has_a_default_unless_counts_are_given(arguments: list[str], minutes: float | None) -> None:
    limit = resolve(["--env", "procgen:maze", "--device", "cpu", *arguments]).limit
    assert (limit.minutes if limit else None) == minutes
    if limit:
        assert ("features.updates" in limit.given) == ("--features.updates" in arguments)


@pytest.mark.parametrize("minutes", ["0", "-1", "inf", "nan"])
def test_bad_minutes_are_refused(minutes: str) -> None:
    with pytest.raises(UserError, match="minutes: expected a positive number, got"):
        resolve(["--env", "procgen:maze", "--minutes", minutes])


def test_a_saved_configuration_has_no_time_limit(tmp_path: Path) -> None:
    """A rerun repeats the counts, whatever the machine."""
    file = tmp_path / "config.json"
    from bcvlr_fast.config.files import to_json

    file.write_text(to_json(settings()))
    assert resolve(["--config-file", str(file)]).limit is None
    assert read_saved(file, lambda _: Config) == settings()
