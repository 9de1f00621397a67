"""Ranges, options and widths of configuration fields."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bcvlr_fast.config.fields import flat, with_absolute_paths
from bcvlr_fast.config.overlay import overlay
from bcvlr_fast.config.presets import SCALES
from bcvlr_fast.config.run import validate
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.system.errors import UserError

BAD_VALUES = {
    "no object": ([], "settings: expected an object, got list"),
    "unknown field": ({"sed": 1}, "unknown field 'sed'.*did you mean 'seed'"),
    "unknown field of a section": ({"online": {"num_env": 1}}, "unknown field 'online.num_env'.*'num_envs'"),
    "parts of a number": ({"seed.low": 1}, "unknown field 'seed.low': 'seed' has no parts"),
    "string for a number": ({"seed": "1"}, "seed: expected int, got '1'"),
    "flag for a number": ({"online": {"interactions": True}}, "online.interactions: expected int"),
    "below the range": ({"seed": -1}, "seed: expected 0 <= value"),
    "not a number": ({"features": {"learning_rate": math.nan}}, "features.learning_rate: expected 0 <= value <= 10"),
    "infinite": ({"frames_gb": math.inf}, "frames_gb: expected a finite number"),
    "unknown option": ({"features": {"shift_mode": "cubic"}}, "features.shift_mode: expected one of integer, bilinear"),
    "unknown number": ({"encoder": {"stride": 3}}, "encoder.stride: expected one of 1, 2, 4, got '3'"),
    "flag for an option": ({"encoder.stride": True}, "encoder.stride: expected int, got True"),
    "no widths": ({"policy": {"impala_channels": []}}, "policy.impala_channels: expected one or more widths"),
    "no list": ({"env": "procgen:miner"}, "env: expected a list, got 'procgen:miner'"),
    "no path": ({"labels": 5}, "labels: expected a path, got 5"),
    "preset": ({"preset": "quik"}, "preset: expected one of auto, paper, quick, got 'quik' .did you mean 'quick'"),
    "capacity": ({"online": {"capacity": 150}}, "online.capacity: expected at least 192, a window of 3 frames"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_values_are_one_line_errors(case: str) -> None:
    values, message = BAD_VALUES[case]
    with pytest.raises(UserError, match=message) as caught:
        validate(overlay(Config(), values))
    assert "\n" not in str(caught.value)


def test_values_are_named_by_section_or_by_dots() -> None:
    nested = overlay(Config(), {"online": {"num_envs": 8}, "videos": ["x"], "frames_gb": 2})
    assert nested == overlay(Config(), {"online.num_envs": 8, "videos": (Path("x"),), "frames_gb": 2.0})
    both = overlay(Config(), {"online.num_envs": 8, "online.capacity": 900})
    assert (both.online.num_envs, both.online.capacity) == (8, 900)
    assert flat(nested)["online.num_envs"] == 8


def test_paths_become_absolute_in_every_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = overlay(Config(), {"videos": ["x", "/y"], "encoder.pretrained_weights": "w"})
    absolute = with_absolute_paths(settings)
    assert absolute.videos == (tmp_path / "x", Path("/y"))
    assert absolute.encoder.pretrained_weights == tmp_path / "w"


@pytest.mark.parametrize("scale", SCALES)
def test_every_number_has_a_range_that_contains_the_presets(scale: str) -> None:
    def walk(section: Any) -> None:
        for item in dataclasses.fields(section):
            value = getattr(section, item.name)
            if dataclasses.is_dataclass(value):
                walk(value)
            elif isinstance(value, int | float) and not isinstance(value, bool) and "Literal" not in str(item.type):
                assert "range" in item.metadata, item.name

    walk(preset("procgen:bossfight", scale))
    validate(preset("procgen:bossfight", scale))


def test_configuration_modules_import_neither_torch_nor_environments() -> None:
    modules = "config.files, config.presets, methods.registry, methods.bcvlr.presets, runs.arguments"
    imports = ", ".join(f"bcvlr_fast.{name}" for name in modules.split(", "))
    heavy = {"torch", "envpool", "gymnasium", "mujoco", "dm_control"}
    code = f"import json, sys, {imports}; print(json.dumps(sorted({heavy!r} & set(sys.modules))))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []
