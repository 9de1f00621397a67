"""Runs that are stopped, killed, resumed, and the folders that they own."""

import fcntl
import json
import signal
import subprocess
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
from bcvlr_fast.training import metrics_log as logger
from bcvlr_fast.training.loop import Loop
from helpers.processes import resume_to_the_end_of, signalled
from helpers.tiny import TINY, command, run, wait_until


@pytest.mark.parametrize("when", ["1/4", "2/4", "3/4", "4/4 online 1", "480 interactions"])
def test_stopped_and_resumed_gives_the_same_weights(
    finished: tuple[Path, Path, str], tmp_path: Path, when: str
) -> None:
    folder, videos, _ = finished
    out = tmp_path / "run"
    code, message = signalled(when, signal.SIGINT, *TINY, "--videos", str(videos), "--out", str(out))
    assert code == 130, message
    assert f"--resume {out}" in message
    resume_to_the_end_of(folder, out)


def test_streamed_frames_and_two_threads_resume_the_same(
    finished: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a budget that the videos exceed; the step that was gathered ahead when the run stopped is drawn again."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    _, videos, _ = finished
    flags = [*TINY, "--frames-gb", "0.0001", "--videos", str(videos)]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    done = run(*flags, "--out", str(straight))
    assert done.returncode == 0, done.stderr
    assert "(mapped)" in done.stdout
    code, message = signalled("1/4", signal.SIGINT, *flags, "--out", str(stopped))
    assert code == 130, message
    resume_to_the_end_of(straight, stopped)


def test_killed_before_the_first_save_of_the_online_phase(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    """The newest checkpoint is then that of the phase's beginning, without an action log."""
    folder, videos, _ = finished
    out = tmp_path / "run"
    code, message = signalled("240 interactions", signal.SIGKILL, *TINY, "--videos", str(videos), "--out", str(out))
    assert code == -signal.SIGKILL, message
    resume_to_the_end_of(folder, out)
    rows = logger.read_metrics(out)
    assert [row["interactions"] for row in rows if row.get("stage") == "round"] == [240, 480, 700]
    assert sorted(row["time_s"] for row in rows) == [row["time_s"] for row in rows]


def test_a_resumed_run_stays_the_same_run(finished: tuple[Path, Path, str]) -> None:
    folder, _, _ = finished
    kept = (folder / "config.json").read_text()
    (folder.parent / "other.json").write_text('{"preset": "quick"}')
    for flags, message in (
        (["--out", "elsewhere"], "out: a resumed run stays in its folder"),
        (["--config-file", str(folder.parent / "other.json")], "resume: "),
        (["--seed", "5"], "seed: a resumed run keeps its settings (0), got 5"),
        (["--encoder.channels", "8"], "encoder"),
        (["--preset", "paper"], "preset"),
    ):
        done = run(f"--resume={folder}", *flags)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
    assert (folder / "config.json").read_text() == kept


def test_a_run_that_does_not_say_how_it_is_drawn_goes_on(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    """As those of before there was a choice."""
    kept = json.loads((finished[0] / "config.json").read_text())
    del kept["rendering"]
    (tmp_path / "config.json").write_text(json.dumps(kept))
    assert arguments.resolve(["--resume", str(tmp_path)]).settings.rendering == "stock"


def test_the_same_settings_may_be_said_again(finished: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, videos, _ = finished
    monkeypatch.chdir(folder.parent)
    done = run(
        "--resume", "auto", "--out", folder.name, *TINY, "--preset", "auto", "--videos", videos.name, "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    assert f"resumed from {folder.name}" in done.stdout
    fresh = run("--resume", "auto", "--out", "new", *TINY, "--videos", videos.name, "--dry-run")
    assert fresh.returncode == 0, fresh.stderr
    assert "run folder new" in fresh.stdout
    assert "resumed" not in fresh.stdout


def test_a_signal_during_the_evaluation_ends_it_and_nothing_is_lost(
    finished: tuple[Path, Path, str], tmp_path: Path
) -> None:
    folder, videos, _ = finished
    out = tmp_path / "run"
    long = [*TINY, "--episodes", "100000", "--videos", str(videos), "--out", str(out)]
    process = subprocess.Popen(command("train", *long), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def trained() -> bool:
        saved, _ = checkpoint.load_newest(out / "ckpt")
        return saved is not None and saved["phase"] == "done"

    wait_until(trained, limit_s=120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert not (out / "status.json").exists()
    resumed = run("--resume", str(out), "--episodes", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert (out / "evaluation.json").read_text() == (folder / "evaluation.json").read_text()


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


def test_sigterm_exits_75(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    _, videos, _ = finished
    long = [*TINY, "--features.updates", "100000", "--videos", str(videos), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command("train", *long), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: bool(logger.read_metrics(tmp_path / "run")), limit_s=60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75


def test_a_run_folder_has_one_owner(finished: tuple[Path, Path, str]) -> None:
    folder, _, _ = finished
    with (folder / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write("4242")
        lock.flush()
        done = run("--resume", str(folder))
    assert done.returncode == 2
    assert "in use by process 4242" in done.stderr
