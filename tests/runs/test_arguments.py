"""Settings from command lines and from Python keywords."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bcvlr_fast.config.fields import flat
from bcvlr_fast.config.files import to_json
from bcvlr_fast.config.overlay import overlay
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.runs.arguments import resolve, settings_for
from bcvlr_fast.runs.options import CommandArguments, options_type
from bcvlr_fast.system.errors import UserError

QUICK = ["--preset", "quick", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(*argv: str) -> Any:
    return resolve([*QUICK, *argv]).settings


def saved(folder: Path, **values: Any) -> Path:
    """A run folder with the configuration of a quick run."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(overlay(settings(), values)))
    return folder


def test_options_override_the_preset_of_the_environment() -> None:
    request = resolve([*QUICK, "--env", "procgen:miner", "--online.num-envs", "8", "--track", "tensorboard"])
    expected = overlay(preset("procgen:miner", "quick"), {"device": "cpu", "rendering": "stock", "online.num_envs": 8})
    assert request.settings == expected
    assert (request.why, request.track, request.profile) == ("as asked", "tensorboard", None)
    assert re.fullmatch(r"runs/procgen-miner/\d{8}-\d{6}-s0", str(request.folder))
    assert (request.print_config, request.dry_run) == (False, False)


def test_lists_are_separated_by_spaces(tmp_path: Path) -> None:
    config = settings("--env", "procgen:miner", "procgen:maze", "--videos", "a", "/b,c", "--seed", "1")
    assert config.env == ("procgen:miner", "procgen:maze")
    assert config.videos == (tmp_path / "a", Path("/b,c"))
    assert config.task_name == "procgen:miner+procgen:maze"
    request = resolve([*QUICK, "--env", "procgen:miner", "procgen:maze"])
    assert request.folder.parent == Path("runs/procgen-miner+procgen-maze")


def test_options_may_have_underscores_and_values_keep_theirs() -> None:
    config = settings("--video_frames=40", "--encoder.pretrained_weights=my_file", "--features.objective", "none")
    assert config.video_frames == 40
    assert config.encoder.pretrained_weights.name == "my_file"


def test_a_factory_is_an_environment() -> None:
    assert settings("--env-factory", "helpers.small_envs:dot").env == ("factory:helpers.small_envs:dot",)
    assert settings("--env-factory=helpers.small_envs:dot").frame_stack == 3


def test_sources_name_what_set_a_value(tmp_path: Path) -> None:
    part = tmp_path / "part.json"
    part.write_text('{"env": "procgen:miner", "features": {"updates": 7, "batch_size": 9}}')
    argv = ["--config-file", "part.json", "--features.batch-size", "8", "--features.shift-pad", "1"]
    request = resolve([*QUICK, *argv])
    assert request.why == "from part.json"
    assert request.sources["env"] == request.sources["features.updates"] == "part.json"
    assert request.sources["features.batch_size"] == request.sources["preset"] == "command line"
    assert request.sources["policy.updates"] == "preset quick: minutes on two CPU cores"
    values, defaults = flat(request.settings), flat(Config())
    assert set(request.sources) == {name for name in values if values[name] != defaults[name]}


def test_printed_settings_are_read_back(tmp_path: Path) -> None:
    request = resolve([*QUICK, "--env", "dmc:reacher_easy", "--videos", "x", "--online.num-envs", "5"])
    (tmp_path / "printed.json").write_text(to_json(request.settings, request.sources))
    assert resolve(["--config-file", "printed.json"]).settings == request.settings


def test_a_partial_file_overrides_the_preset_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "part.json").write_text('{"online": {"num_envs": 32}}')
    config = settings("--config-file", "part.json", "--env", "dmc:finger_spin")
    expected = {"online.num_envs": 32, "device": "cpu", "rendering": config.rendering}
    assert config == overlay(preset("dmc:finger_spin", "quick"), expected)


def test_a_file_of_preset_auto_leaves_the_preset_to_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "part.json").write_text('{"preset": "auto"}')
    assert settings("--config-file", "part.json").preset == "quick"


def test_auto_is_quick_without_a_gpu() -> None:
    request = resolve(["--device", "cpu"])
    assert request.settings.preset == "quick"
    assert request.why == request.sources["preset"] == "no CUDA device in use; --preset paper overrides"
    assert resolve(["--device", "cuda"]).settings.preset == "paper"


def test_a_resumed_run_keeps_its_settings(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", seed=3)
    request = resolve(["--resume", "run", "--episodes", "7", "--device", "auto"])
    assert (request.folder, request.why) == (Path("run"), "resumed from run")
    assert (request.settings.seed, request.settings.episodes) == (3, 7)
    assert request.sources["seed"] == "resumed run"
    assert request.sources["episodes"] == "command line"
    (tmp_path / "other.json").write_text('{"preset": "quick"}')
    for flags, message in (
        (["--out", "elsewhere"], "out: a resumed run stays in its folder"),
        (["--config-file", "other.json"], r"resume: seed: a resumed run keeps its settings \(3\), got 0"),
        (["--seed", "5"], r"resume: seed: a resumed run keeps its settings \(3\), got 5"),
        (["--encoder.channels", "8"], "resume: encoder.channels: a resumed run keeps its settings"),
        (["--preset", "paper"], "resume: preset: a resumed run keeps its settings"),
    ):
        with pytest.raises(UserError, match=message):
            resolve([f"--resume={folder}", *flags])


def test_a_run_that_does_not_name_its_rendering_is_stock(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", env=["dmc:reacher_easy"], rendering="fast")
    configuration = json.loads((folder / "config.json").read_text())
    del configuration["rendering"]
    (folder / "config.json").write_text(json.dumps(configuration))
    assert resolve(["--resume", str(folder)]).settings.rendering == "stock"


def test_resume_auto_finds_the_newest_unfinished_run(tmp_path: Path) -> None:
    runs = Path("runs/procgen-miner+procgen-maze")
    envs = ["procgen:miner", "procgen:maze"]
    for name in ("1", "2", "3"):
        saved(tmp_path / runs / name, env=envs)
    (tmp_path / runs / "3" / "status.json").write_text("{}")
    assert resolve(["--resume", "auto", "--env", *envs]).folder == runs / "2"
    assert resolve([*QUICK, "--resume", "auto"]).why == "as asked"
    assert resolve([*QUICK, "--resume", "auto", "--out", "new"]).folder == Path("new")


BAD = {
    "unknown option": (["--sed", "1"], "unknown option --sed (did you mean '--seed'?)"),
    "unknown option of a section": (["--encoder.chanels=3"], "--encoder.chanels (did you mean '--encoder.channels'?)"),
    "stray": (["miner"], "unexpected argument 'miner'"),
    "not a number": (["--seed", "many"], "--seed: expected INT (invalid literal for int() with base 10: 'many')"),
    "not a list of numbers": (["--policy.mlp-hidden", "a"], "--policy.mlp-hidden: expected"),
    "no value": (["--seed"], "--seed: expected INT, got nothing"),
    "early option without a value": (["--out"], "--out: expected {None}|PATH, got nothing"),
    "unknown choice": (["--precision", "fp3"], "expected one of auto, fp32, bf16, got 'fp3' (did you mean 'fp32'?)"),
    "unknown preset": (
        ["--preset", "quik"],
        "expected one of paper, quick, got 'quik' (did you mean 'quick'?)",
    ),
    "unknown method": (
        ["--method", "bcvlr"],
        "expected one of bcv-lr, bc-true-actions, got 'bcvlr' (did you mean 'bcv-lr'?)",
    ),
    "unknown game": (["--env", "procgen:bosfight"], "did you mean 'bossfight'"),
    "commas": (["--env", "procgen:a,procgen:b"], "(--env procgen:a procgen:b)"),
    "no environment": (["--env"], "env: expected one or more names such as procgen:bossfight, got none"),
    "out of range": (["--online.num-envs", "0"], "online.num_envs: expected 1 <= value <= 4096, got 0"),
    "profile": (["--profile", "9:3"], "profile: expected updates FIRST:END such as 20:30, got '9:3'"),
    "resume nothing": (["--resume", "nowhere"], "resume: nowhere: expected a run folder"),
    "no file": (["--config-file", "no.json"], "no.json: cannot be read"),
    "another preset": (["--config-file", "paper.json"], "preset: paper.json is of preset paper, got quick"),
    "another method": (
        ["--config-file", "paper.json", "--method", "x"],
        "method: paper.json is of method bcv-lr, got x",
    ),
    "unknown field": (["--config-file", "sed.json"], "sed.json: unknown field 'sed' (did you mean 'seed'?)"),
    "full folder": (["--out", "full"], "out: full is not an empty folder (resume its run with: --resume full)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_command_lines_are_one_line_errors(case: str) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    Path("paper.json").write_text('{"preset": "paper", "method": "bcv-lr"}')
    Path("sed.json").write_text('{"sed": 1}')
    argv, message = BAD[case]
    with pytest.raises(UserError) as caught:
        resolve([*QUICK, *argv])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir()) == ["full", "paper.json", "sed.json"]


def printed_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        resolve(argv)
    assert not caught.value.code
    return capsys.readouterr().out


def test_help_is_grouped_short_and_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed_help(["--help"], capsys)
    for group in ("run", "data", "evaluation", "command", "encoder", "features", "latent-actions", "policy", "online"):
        assert f"{group} options" in text
    for name in flat(Config()):
        assert f"--{name.replace('_', '-')}" in text
    assert "--features.learning-rate FLOAT (default: 3e-05)" in text
    assert len(text.splitlines()) < 180


def test_verbose_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed_help(["--help-verbose"], capsys)
    words = re.sub(r"[│╭╮╰╯─]|\(default:[^)]*\)", " ", text)
    texts = re.split(r"^  --[a-z]\S*.*$", words, flags=re.MULTILINE)[1:]
    assert len(texts) == len(flat(Config())) + len(CommandArguments.__dataclass_fields__)
    assert [text for text in texts if len(text.split()) < 3] == []


def test_keywords_are_the_options_of_the_command_line(tmp_path: Path) -> None:
    config = settings_for("procgen:miner", "x", preset="quick", device="cpu", online={"num_envs": 8}, seed=4)
    assert config == settings("--env", "procgen:miner", "--videos", "x", "--online.num-envs", "8", "--seed", "4")
    envs = ["procgen:miner", "procgen:maze"]
    several = settings_for(envs, ["x", tmp_path / "y"], preset="quick", **{"online.num_envs": 8})
    assert several.env == tuple(envs)
    assert several.videos == (tmp_path / "x", tmp_path / "y")
    assert settings_for("procgen:miner", device="cpu").preset == "quick"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sed": 1}, "unknown field 'sed' (did you mean 'seed'?)"),
        ({"online": {"num_envs": 0}}, "online.num_envs: expected 1 <= value"),
        ({"online": 3}, "online: expected an object, got int"),
        ({"env": "procgen:bosfight"}, "did you mean 'bossfight'"),
        ({"preset": "quik"}, "did you mean 'quick'"),
        ({"method": "bcvlr"}, "did you mean 'bcv-lr'"),
        ({"seed": "1"}, "seed: expected int, got '1'"),
    ],
)
def test_bad_keywords_are_one_line_errors(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings_for(**{"env": "procgen:miner", "preset": "quick", **keywords})
    assert message in str(caught.value)


def test_the_options_are_those_of_the_configuration() -> None:
    groups = options_type(Config).__dataclass_fields__
    assert list(groups)[:4] == ["run", "data", "evaluation", "command"]
