"""Presets, validation, and JSON that restores them."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest

from bcvlr_fast import config
from bcvlr_fast.config import Config
from bcvlr_fast.system.errors import UserError


@pytest.mark.parametrize("scale", config.PRESETS)
def test_json_restores_a_preset(scale: str) -> None:
    settings = config.preset("procgen:miner", scale)
    assert config.from_json(config.to_json(settings), "here") == settings


def test_paper_schedule() -> None:
    settings = config.preset("procgen:bossfight", "paper")
    assert (settings.features.updates, settings.latent_actions.updates, settings.policy.updates) == (
        20_000,
        10_000,
        60_000,
    )
    online = settings.online
    assert (online.interactions, online.num_envs, online.round_interactions) == (100_000, 64, 4096)
    assert (online.finetune_updates, online.clone_updates, online.capacity) == (60, 500, 20_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected an object"),
        ('{"sed": 1}', "unknown field 'sed'.*did you mean 'seed'"),
        ('{"seed": "1"}', "seed: expected int"),
        ('{"seed": -1}', "seed: expected 0 <= value"),
        ('{"features": {"learning_rate": NaN}}', "features.learning_rate: expected 0 <= value"),
        ('{"features": {"learning_rate": 1e400}}', "features.learning_rate: expected 0 <= value"),
        ('{"features": {"shift_mode": "cubic"}}', "features.shift_mode: expected one of integer, bilinear"),
        ('{"policy": {"impala_channels": []}}', "policy.impala_channels: expected one or more widths"),
        ('{"encoder": {"stride": 3}}', "encoder.stride: expected one of 1, 2, 4, got '3'"),
        ('{"preset": "quik"}', "preset: expected one of paper, quick, got 'quik' .did you mean 'quick'"),
        ('{"preset": 5}', "preset: expected str"),
        ('{"videos": 5}', "videos: expected a path or null"),
        ('{"online": {"capacity": 150}}', "online.capacity: expected at least 192, a window of 3 frames"),
        ('{"online": {"interactions": true}}', "online.interactions: expected int"),
    ],
)
def test_bad_configurations_are_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config.from_json(text, "file.json")
    assert "\n" not in str(caught.value)


def test_every_number_has_a_range_and_the_defaults_are_inside() -> None:
    def walk(section: object) -> None:
        for item in dataclasses.fields(section):  # type: ignore[arg-type]
            value = getattr(section, item.name)
            if dataclasses.is_dataclass(value):
                walk(value)
            elif isinstance(value, int | float) and not isinstance(value, bool) and "Literal" not in str(item.type):
                assert "range" in item.metadata, item.name

    for scale in config.PRESETS:
        walk(config.preset("procgen:bossfight", scale))
        config.validate(config.preset("procgen:bossfight", scale))


def test_fields_that_a_file_lacks_are_its_presets() -> None:
    quick = config.preset("procgen:miner", "quick")
    assert config.from_json('{"env": "procgen:miner", "preset": "quick", "seed": 3}', "f") == dataclasses.replace(
        quick, seed=3
    )
    part = config.from_json('{"env": "procgen:miner", "online": {"num_envs": 32}}', "f", scale="quick")
    assert part == config.replace_in(quick, "online", num_envs=32)
    assert config.from_json("{}", "f").preset == "paper"


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quick'"):
        config.preset("procgen:bossfight", "quik")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['train', '--help']\n"
        "from bcvlr_fast import train\n"
        "try: train.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'envpool' not in sys.modules"
    )
    start = time.monotonic()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--features.learning-rate" in shown.stdout
    assert time.monotonic() - start < 10


def test_config_json_is_plain() -> None:
    assert json.loads(config.to_json(Config()))["online"]["decoder_hidden"] == [192, 128, 64]
