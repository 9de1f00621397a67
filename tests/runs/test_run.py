"""Reopening a run folder: what is restored, reported or refused."""

import json
from pathlib import Path

import pytest
import torch

from bcvlr_fast.data.collector import OtherFrames
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.runs import arguments
from bcvlr_fast.runs.run import Run
from bcvlr_fast.system.errors import Diverged, UserError
from bcvlr_fast.system.host import versions
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training.loop import Loop


def open_run(folder: Path) -> Run:
    settings = preset("procgen:bossfight", "quick")
    return Run(folder, settings, Screen())


def saved_run(folder: Path, **changes: object) -> Run:
    """A run reopened after `changes` to its checkpoint; a double underscore in a name separates nested keys."""
    run = open_run(folder)
    run.save()
    run.close()
    (saved,) = (folder / "ckpt").iterdir()
    state = checkpoint.load_checkpoint(saved)
    for name, value in changes.items():
        parts = name.split("__")
        inner = state
        for part in parts[:-1]:
            inner = inner[part]
        inner[parts[-1]] = value
    checkpoint.save(folder / "ckpt", int(saved.name.removeprefix("step-")), state)
    return open_run(folder)


def test_a_run_stays_on_its_kind_of_device(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run is on tpu, got device cpu"):
        saved_run(tmp_path / "run", device="tpu")


def test_other_package_versions_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_run(tmp_path / "run", versions={**versions(), "torch": "1.0"}).close()
    output = "".join(capsys.readouterr())
    assert "torch was 1.0, is" in output
    assert "numpy was" not in output


def test_frames_placed_elsewhere_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved_run(tmp_path / "run", progress__placement="mapped")
    run.place("device")
    run.close()
    assert "the frames were placed as 'mapped' and are now 'device'" in "".join(capsys.readouterr())


def test_environments_that_play_differently_are_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")

    class Differs:
        def run(self, loop: Loop) -> None:  # noqa: ARG002
            raise OtherFrames

    with pytest.raises(UserError, match="the same actions lead to other frames"):
        run._run_phase(Differs())  # type: ignore[arg-type]
    run.close()


def test_diverged_weights_are_never_saved(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    run.save()
    with torch.no_grad():
        next(run.method.agent.policy.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        run.save()
    run.close()
    assert len(list((tmp_path / "run" / "ckpt").iterdir())) == 1


def test_a_run_with_only_damaged_checkpoints_does_not_start_over(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    run.save()
    run.close()
    (saved,) = (tmp_path / "run" / "ckpt").iterdir()
    (saved / "state.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        open_run(tmp_path / "run")


def test_a_run_without_a_rendering_resumes_with_stock(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    """Runs of versions without that setting used stock."""
    configuration = json.loads((finished[0] / "config.json").read_text())
    del configuration["rendering"]
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    assert arguments.resolve(["--resume", str(tmp_path)]).settings.rendering == "stock"
