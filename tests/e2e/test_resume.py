"""Runs that are stopped, killed and resumed, and the folders that they own."""

import fcntl
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from bcvlr_fast.training import metrics_log as logger
from helpers.commands import invoke, refusal, run, start, wait_until
from helpers.tiny import TINY, assert_resumes_to_the_end_of, signaled, train_only, trained

SLOW = [pytest.param(when, marks=pytest.mark.slow) for when in ("1/4", "3/4", "480 interactions")]


@pytest.mark.parametrize("when", ["2/4", "4/4 online 1", "online 3/3 clone", *SLOW])
def test_stopped_and_resumed_gives_the_same_weights(
    finished: tuple[Path, Path, str], tmp_path: Path, when: str
) -> None:
    folder, videos, _ = finished
    out = tmp_path / "run"
    code, message = signaled(when, signal.SIGINT, *TINY, "--videos", str(videos), "--out", str(out))
    assert code == 130, message
    assert f"--resume {out}" in message
    assert_resumes_to_the_end_of(folder, out)


@pytest.mark.slow
def test_a_stopped_run_of_given_minutes_keeps_its_plan(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    """All counts but the last are given, so that the plan has one to determine, and once more when its phase begins."""
    _, videos, _ = finished
    out = tmp_path / "run"
    flags = [*TINY[: TINY.index("--final.updates")], "--minutes", "1.2", "--videos", str(videos), "--out", str(out)]

    def kept() -> tuple[dict[str, Any], dict[str, Any]]:
        plan, config = (json.loads((out / name).read_text()) for name in ("plan.json", "config.json"))
        assert plan["minutes"] == 1.2
        assert plan["counts"]["final.updates"] == config["final"]["updates"] > 24
        assert plan["counts"]["features.updates"] == 6
        return plan, config

    code, message = signaled("2/4", signal.SIGINT, *flags)
    assert code == 130, message
    assert kept()[0]["open"] == "final.updates"
    code, message = signaled("the time that is left", signal.SIGINT, *flags, "--resume", "auto")
    assert code == 130, message
    before = kept()
    assert before[0]["open"] == ""
    done = run("train", *flags, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "plan for" not in done.stdout
    assert kept() == before


@pytest.mark.parametrize("threads", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_streamed_frames_resume_the_same(
    finished: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    """The videos exceed the memory budget. A step that was gathered ahead before the stop is drawn again."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    _, videos, _ = finished
    flags = [*TINY, "--frames-gb", "0.0001", "--online.interactions", "240", "--videos", str(videos)]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert "(mapped)" in train_only(*flags, "--out", str(straight))
    code, message = signaled("1/4", signal.SIGINT, *flags, "--out", str(stopped))
    assert code == 130, message
    assert_resumes_to_the_end_of(straight, stopped)


def test_killed_before_the_first_save_of_the_online_phase(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    """The newest checkpoint is from the beginning of the phase, without an action log."""
    folder, videos, _ = finished
    out = tmp_path / "run"
    code, message = signaled("240 interactions", signal.SIGKILL, *TINY, "--videos", str(videos), "--out", str(out))
    assert code == -signal.SIGKILL, message
    assert_resumes_to_the_end_of(folder, out)
    rows = logger.read_metrics(out)
    assert [row["interactions"] for row in rows if row.get("stage") == "round"] == [240, 480, 700]
    assert sorted(row["time_s"] for row in rows) == [row["time_s"] for row in rows]


def test_a_resumed_run_keeps_its_settings_and_folder(finished: tuple[Path, Path, str]) -> None:
    folder, _, _ = finished
    configuration = (folder / "config.json").read_text()
    (folder.parent / "other.json").write_text('{"preset": "quick"}')
    for flags, message in (
        (["--out", "elsewhere"], "out: a resumed run stays in its folder"),
        (["--config-file", str(folder.parent / "other.json")], "resume: "),
        (["--seed", "5"], "seed: a resumed run keeps its settings (0), got 5"),
        (["--encoder.channels", "8"], "encoder"),
        (["--preset", "paper"], "preset"),
    ):
        assert message in refusal(invoke("train", f"--resume={folder}", *flags))
    assert (folder / "config.json").read_text() == configuration


def test_a_resumed_run_accepts_its_own_settings(
    finished: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, videos, _ = finished
    monkeypatch.chdir(folder.parent)
    again = ["--resume", "auto", "--out", folder.name, *TINY, "--preset", "auto", "--videos", videos.name]
    done = invoke("train", *again, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"resumed from {folder.name}" in done.stdout
    fresh = invoke("train", "--resume", "auto", "--out", "new", *TINY, "--videos", videos.name, "--dry-run")
    assert fresh.returncode == 0, fresh.stderr
    assert "run folder new" in fresh.stdout
    assert "resumed" not in fresh.stdout


def test_a_signal_during_the_evaluation_ends_it_and_nothing_is_lost(
    finished: tuple[Path, Path, str], tmp_path: Path
) -> None:
    folder, videos, _ = finished
    out = tmp_path / "run"
    long = [*TINY, "--episodes", "100000", "--videos", str(videos), "--out", str(out)]
    command = start("train", *long)
    wait_until(lambda: trained(out), limit_s=120, every_s=0.1)
    command.send_signal(signal.SIGTERM)
    assert command.wait(limit_s=30) == 75
    assert not (out / "status.json").exists()
    resumed = run("train", "--resume", str(out), "--episodes", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert (out / "evaluation.json").read_text() == (folder / "evaluation.json").read_text()


def test_sigterm_exits_75(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    _, videos, _ = finished
    long = [*TINY, "--features.updates", "100000", "--videos", str(videos), "--out", str(tmp_path / "run")]
    command = start("train", *long)
    wait_until(lambda: bool(logger.read_metrics(tmp_path / "run")), limit_s=60)
    command.send_signal(signal.SIGTERM)
    assert command.wait(limit_s=30) == 75


def test_a_run_folder_has_one_owner(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "run")
    with (folder / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write("4242")
        lock.flush()
        assert "in use by process 4242" in refusal(invoke("train", "--resume", str(folder)))
