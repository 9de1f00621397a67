"""A run folder that is opened again: what is restored, named, refused."""

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


def opened(folder: Path) -> Run:
    settings = preset("procgen:bossfight", "quick")
    return Run(folder, settings, Screen())


def saved_run(folder: Path, **changes: object) -> Run:
    """A run opened again whose checkpoint says something else."""
    owner = opened(folder)
    owner.save()
    owner.close()
    (kept,) = (folder / "ckpt").iterdir()
    other = checkpoint.load_checkpoint(kept)
    for name, value in changes.items():
        parts = name.split("__")
        inner = other
        for part in parts[:-1]:
            inner = inner[part]
        inner[parts[-1]] = value
    checkpoint.save(folder / "ckpt", int(kept.name.removeprefix("step-")), other)
    return opened(folder)


def test_a_run_stays_on_its_kind_of_device(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run is on tpu, got device cpu"):
        saved_run(tmp_path / "run", device="tpu")


def test_another_version_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_run(tmp_path / "run", versions={**versions(), "torch": "1.0"}).close()
    shown = "".join(capsys.readouterr())
    assert "torch was 1.0, is" in shown
    assert "numpy was" not in shown


def test_frames_placed_elsewhere_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = saved_run(tmp_path / "run", progress__placement="mapped")
    owner.place("device")
    owner.close()
    assert "the frames were placed as 'mapped' and are now 'device'" in "".join(capsys.readouterr())


def test_environments_that_play_differently_are_refused(tmp_path: Path) -> None:
    owner = opened(tmp_path / "run")

    class Differs:
        def run(self, loop: Loop) -> None:  # noqa: ARG002
            raise OtherFrames

    with pytest.raises(UserError, match="the same actions lead to other frames"):
        owner._run_phase(Differs())  # type: ignore[arg-type]
    owner.close()


def test_diverged_weights_are_never_saved(tmp_path: Path) -> None:
    owner = opened(tmp_path / "run")
    owner.save()
    with torch.no_grad():
        next(owner.method.agent.policy.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        owner.save()
    owner.close()
    assert len(list((tmp_path / "run" / "ckpt").iterdir())) == 1


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path: Path) -> None:
    owner = opened(tmp_path / "run")
    owner.save()
    owner.close()
    (kept,) = (tmp_path / "run" / "ckpt").iterdir()
    (kept / "state.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        opened(tmp_path / "run")


def test_a_run_that_does_not_say_how_it_is_drawn_goes_on(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    """As those of before there was a choice."""
    kept = json.loads((finished[0] / "config.json").read_text())
    del kept["rendering"]
    (tmp_path / "config.json").write_text(json.dumps(kept))
    assert arguments.resolve(["--resume", str(tmp_path)]).settings.rendering == "stock"
