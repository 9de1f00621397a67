"""The table of recoveries."""

import json
from pathlib import Path
from typing import Any

import pytest

import recovery
from bcvlr_fast.methods.registry import preset_for
from bcvlr_fast.runs.arguments import settings_for
from collect_runs import changed, keep, read_rows

INTERVAL = {"mean": 0.5, "low": 0.4, "high": 0.6}


def row(method: str, **fields: Any) -> dict[str, Any]:
    about = {"env": "procgen:maze", "method": method, "minutes_given": 15, "minutes": 14.2, "seed": 0, "expert": "one"}
    return {
        **about,
        "recovery": {"unstuck": INTERVAL},
        "machine": {"cpu": "A(R) CPU", "precision": "float32"},
        **fields,
    }


def test_a_row_replaces_the_one_of_the_same_run(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for minutes, expert in ((14.2, "one"), (14.6, "one"), (14.6, "another")):
        keep(file, row("bcv-lr", minutes=minutes, expert=expert))
    assert [(each["minutes"], each["expert"]) for each in read_rows(file)] == [(14.6, "one"), (14.6, "another")]


def test_changed_names_what_differs_from_the_preset() -> None:
    settings = settings_for("procgen:maze", preset="quick", seed=3, **{"final.updates": 7, "encoder.channels": 5})
    assert changed(settings, apart=("final.updates",)) == {"encoder.channels": 5}
    assert changed(preset_for("bcv-lr")(["procgen:maze"], "quick").config) == {}


def test_tables_in_the_documentation_are_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run stands beside the cloning of the same expert's true actions, and text around the tables stays."""
    names = ("own_decoder_accuracy", "own_accuracy_of_one_answer", "labelling_information", "labelling_accuracy")
    health = dict.fromkeys((*names, "policy_accuracy", "commonest_action"), 0.25)
    scores = dict.fromkeys(("random", "sampled", "greedy", "unstuck", "expert"), INTERVAL)
    learned = {"scores": scores, "recovery": dict.fromkeys(("sampled", "greedy", "unstuck"), INTERVAL), **health}
    rows = [row("bcv-lr", **learned), row("bc-true-actions"), row("bcv-lr", seed=1, **learned)]
    text = tmp_path / "quick.md"
    none = [recovery.score_table([]), recovery.health_table([])]
    text.write_text("before\n\n{}\n| old | row |\n\nbetween\n\n{}\n\nafter\n".format(*none))
    monkeypatch.setattr(recovery, "QUICK", text)
    monkeypatch.setattr(recovery, "current_rows", lambda: rows)
    recovery.write_tables()
    before, scored, between, healthy, after = text.read_text().strip().split("\n\n")
    assert (before, between, after) == ("before", "between", "after")
    seeds = [line.split(" | ") for line in scored.splitlines()[2:]]
    assert [cells[:4] for cells in seeds] == [["| maze", "14.2 of 15", seed, "A CPU, float32"] for seed in ("0", "1")]
    assert [cells[-1] for cells in seeds] == ["0.50 (0.40 .. 0.60) |", " |"]
    assert all(line.endswith("| 25% (25%) | 25% | 25% | 25% (25%) |") for line in healthy.splitlines()[2:])


def test_imitability_is_kept_with_the_name_of_the_expert(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "imitability.json"
    file.write_text('{"maze": {"expert": "old"}, "ninja": {"expert": "kept"}}')
    monkeypatch.setattr(recovery, "IMITABILITY", file)
    recovery.keep_imitability(row("bc-true-actions"))
    kept = json.loads(file.read_text())
    assert kept["maze"] == {"expert": "one", **INTERVAL, "cpu": "A(R) CPU"}
    assert kept["ninja"] == {"expert": "kept"}
