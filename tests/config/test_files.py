"""Saved configurations always mean what they meant when they were written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bcvlr_fast.config.fields import flat
from bcvlr_fast.config.files import from_json, read_overrides, read_saved, to_json
from bcvlr_fast.config.presets import SCALES
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.registry import config_type, read_config
from bcvlr_fast.system.errors import UserError

HERE = Path(__file__).parent


@pytest.mark.parametrize("scale", SCALES)
def test_json_restores_a_configuration(scale: str) -> None:
    settings = dataclasses.replace(preset("procgen:miner", scale), videos=(Path("/a"), Path("/b,c")), labels=Path("/d"))
    assert from_json(to_json(settings), "here", config_type) == settings
    assert from_json(to_json(settings, {"seed": "command line"}), "here", config_type) == settings


def test_json_is_plain() -> None:
    data = json.loads(to_json(Config()))
    assert data["format"] == 2
    assert data["env"] == ["procgen:bossfight"]
    assert data["online"]["decoder_hidden"] == [192, 128, 64]
    assert "sources" not in data


def test_format_1_still_loads() -> None:
    settings = read_config(HERE / "saved_in_format_1.json", Config)
    assert settings.env == ("procgen:miner", "procgen:maze")
    assert settings.videos == (Path("/videos/mi,ner"), Path("/videos/maze"))
    assert settings == dataclasses.replace(
        Config(), env=settings.env, videos=settings.videos, preset="paper", rendering="stock"
    )


def test_fields_that_a_file_lacks_have_their_earlier_meaning() -> None:
    """The quick preset of the first version has fewer fields than today's, with other values."""
    file = HERE / "saved_by_first_version.json"
    settings, written = read_saved(file, lambda _: Config), json.loads(file.read_text())
    values, today = flat(settings), flat(preset("procgen:miner", "quick"))
    for name, value in values.items():
        section, _, field = name.rpartition(".")
        saved = (written.get(section, {}) if section else written).get(field)
        if saved is not None and name != "env":
            assert json.loads(json.dumps(value)) == saved, name
    assert (values["online.exploration"], today["online.exploration"]) == (0.0, 0.5)
    assert (values["latent_actions.future_frames"], today["latent_actions.future_frames"]) == (1, 3)
    assert (values["rendering"], values["method"]) == ("stock", "bcv-lr")


def without(name: str) -> str:
    data: dict[str, Any] = json.loads(to_json(Config()))
    section, _, field = name.rpartition(".")
    del (data[section] if section else data)[field]
    return json.dumps(data)


def test_every_field_of_the_first_version_is_required() -> None:
    for name in ("seed", "online.capacity"):
        with pytest.raises(UserError, match=f"here: {name}: expected in a saved configuration, not found"):
            from_json(without(name), "here", config_type)
    with pytest.raises(UserError, match=r"here: online.interactions: expected in a saved configuration"):
        from_json(without("online"), "here", config_type)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "here: expected JSON"),
        ("[]", "here: expected an object"),
        ('{"format": 3}', "here: format 3 is newer than 2, the newest known here: update bcvlr_fast"),
        ('{"format": "2"}', "here: format: expected 1 to 2, got '2'"),
        ('{"method": "bcvlr"}', "method: expected one of bcv-lr, bc-true-actions, got 'bcvlr' .did you mean 'bcv-lr'"),
        (to_json(Config()).replace('"seed"', '"sed"'), "here: seed: expected"),
        (to_json(Config()).replace('"seed"', '"new": 1, "seed"'), "here: unknown field 'new'"),
        (to_json(Config()).replace('"seed": 0', '"seed": "0"'), "here: seed: expected int, got '0'"),
        (to_json(Config()).replace('"capacity": 20000', '"capacity": 1'), "online.capacity: expected 64 <= value"),
    ],
)
def test_bad_files_are_one_line_errors(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_json(text, "here", config_type)
    assert "\n" not in str(caught.value)


def test_reading_has_no_effects(tmp_path: Path) -> None:
    """The configuration of a finished run can be read even if its environment can no longer be made."""
    settings = dataclasses.replace(Config(), env=("factory:no_such_module:make",), videos=(Path("/gone"),))
    file = tmp_path / "config.json"
    file.write_text(to_json(settings))
    assert read_config(file, Config) == settings


def test_a_partial_configuration_is_read_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    file.write_text('{"env": "procgen:a,procgen:b", "videos": "x,y", "online": {"num_envs": 8}, "sources": {}}')
    assert read_overrides(file) == {
        "env": ["procgen:a", "procgen:b"],
        "videos": ["x", "y"],
        "online": {"num_envs": 8},
    }


def test_a_run_of_another_method_is_refused(tmp_path: Path) -> None:
    class OtherConfig(RunConfig):
        pass

    (tmp_path / "config.json").write_text(to_json(Config()))
    with pytest.raises(UserError, match=r"config.json: method: bcv-lr cannot be used here"):
        read_config(tmp_path / "config.json", OtherConfig)
