"""Presets: the values for every environment, and where they come from."""

import json
from pathlib import Path
from typing import Any

import pytest

import helpers.small_envs  # noqa: F401
from bcvlr_fast.config.fields import flat
from bcvlr_fast.envs import SUITES
from bcvlr_fast.methods.bcvlr.presets import TABLE, preset
from bcvlr_fast.methods.registry import preset_for
from bcvlr_fast.system.errors import UserError

SNAPSHOT: dict[str, Any] = json.loads((Path(__file__).parent / "presets_before.json").read_text())
"""Values of every preset before the table existed: those of one preset, and the differences of the others."""


@pytest.mark.parametrize("variant", range(len(SNAPSHOT["variants"])))
def test_presets_equal_the_snapshot(variant: int) -> None:
    expected = SNAPSHOT["variants"][variant]
    for envs in expected["envs"].split(" | "):
        values = json.loads(json.dumps(flat(preset(tuple(envs.split()), expected["scale"]))))
        for name in ("env", "method", "preset", "videos"):
            del values[name]
        assert values == {**SNAPSHOT["base"], **expected["differs"]}, envs


def test_the_snapshot_has_every_task() -> None:
    names = {f"{suite.name}:{task}" for suite in SUITES.values() for task in suite.tasks or ()}
    for scale in ("paper", "quick"):
        in_snapshot = [name for v in SNAPSHOT["variants"] if v["scale"] == scale for name in v["envs"].split(" | ")]
        assert names <= set(in_snapshot)


def test_paper_schedule() -> None:
    settings = preset("procgen:bossfight", "paper")
    updates = (settings.features.updates, settings.latent_actions.updates, settings.policy.updates)
    assert updates == (20_000, 10_000, 60_000)
    online = settings.online
    assert (online.interactions, online.num_envs, online.round_interactions) == (100_000, 64, 4096)
    assert (online.finetune_updates, online.clone_updates, online.capacity) == (60, 500, 20_000)


def test_values_name_their_row() -> None:
    config, sources = preset_for("bcv-lr")(("dmc:reacher_easy",), "quick")
    defaults = flat(type(config)())
    differ = {name for name, value in flat(config).items() if value != defaults[name]}
    assert set(sources) == differ - {"env", "preset"}
    assert sources["expert_steps"].startswith("preset quick, *:reacher*: ")
    assert sources["features.updates"] == "preset quick: minutes on two CPU cores"
    assert sources["frame_stack"].startswith("every preset: continuous control")


def test_every_row_matches_a_task_and_has_a_reason() -> None:
    names = [f"{suite.name}:{task}" for suite in SUITES.values() for task in suite.tasks or ()]
    for row in TABLE:
        assert row.reason
        assert any(
            row.matches(scale, kind, n) for n in names for scale in ("paper", "quick") for kind in (row.actions,)
        )


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quick'"):
        preset("procgen:bossfight", "quik")
    with pytest.raises(UserError, match="did you mean 'bossfight'"):
        preset("procgen:bosfight", "quick")
