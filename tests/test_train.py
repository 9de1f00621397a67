"""pytest tests/test_train.py: the command from start to end on tiny settings, stopped, resumed and misused."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bcvlr_fast import checkpoint, config, film, logger, report, train
from bcvlr_fast.errors import Diverged, UserError
from bcvlr_fast.run import Run
from bcvlr_fast.screen import Screen

TINY = """
--env procgen:bossfight --preset quick --episodes 3 --precision fp32 --device cpu
--encoder.channels 4 --features.updates 6 --features.batch-size 16 --features.projection-dim 16
--features.hidden-dim 16 --latent-actions.updates 6 --latent-actions.batch-size 16
--latent-actions.impala-channels 4 8 --latent-actions.hidden-dim 16 --latent-actions.world-model-width 4
--policy.updates 32 --policy.batch-size 16 --policy.impala-channels 4 8 --policy.hidden-dim 16
--online.interactions 700 --online.num-envs 8 --online.round-interactions 240 --online.capacity 400
--online.finetune-updates 4 --online.finetune-batch-size 16 --online.clone-updates 20
--online.clone-batch-size 16 --online.regularisation 1
""".split()  # noqa: SIM905


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"bcvlr_fast.{module}", *arguments]


def run(*arguments: str, module: str = "train") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(module, *arguments), capture_output=True, text=True, timeout=300)


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    saved, complaints = checkpoint.load_newest(folder / "ckpt")
    assert saved is not None
    assert complaints == []
    assert saved.state["cursor"]["phase"] == "done"
    return saved.tensors


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """(run folder, dataset, screen) of a whole tiny run."""
    base = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    videos = base / "clips"
    videos.mkdir()
    for i in range(4):
        np.save(videos / f"{i}.npy", rng.integers(0, 256, (30, 64, 64, 3), dtype=np.uint8))
    done = run(*TINY, "--videos", str(videos), "--out", str(base / "run"))
    assert done.returncode == 0, done.stderr
    return base / "run", videos, done.stdout


def test_a_run_leaves_everything_that_it_promises(finished: tuple[Path, Path, str]) -> None:
    folder, _, screen = finished
    assert "preset quick (as asked)" in screen.splitlines()[0]
    assert "about" in screen.splitlines()[1]
    for name in ("config.json", "environment.json", "metrics.jsonl", "evaluation.json", "report.html", "README.md"):
        assert (folder / name).stat().st_size > 0, name
    rows = logger.read(folder)
    assert {"features", "latent_actions", "cloning", "finetuning", "round", "evaluation"} <= {
        r.get("stage") for r in rows
    }
    rounds = [r["interactions"] for r in rows if r.get("stage") == "round"]
    assert rounds == [240, 480, 700]
    scores = json.loads((folder / "evaluation.json").read_text())["scores"]
    assert set(scores) == {"sampled", "greedy", "random"}
    assert all(s["episodes"] == 3 for s in scores.values())
    page = (folder / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert page.count("<svg") >= 3
    assert page.count("<video") == len(list((folder / "videos").glob("*.mp4"))) >= 1


def test_evaluate_and_report_again(finished: tuple[Path, Path, str]) -> None:
    folder, _, _ = finished
    before = json.loads((folder / "evaluation.json").read_text())
    done = run(str(folder), "--episodes", "3", module="evaluate")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "evaluation.json").read_text()) == before
    done = run(str(folder), module="report")
    assert done.returncode == 0, done.stderr


def test_a_report_without_pyav_says_so(
    finished: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("videos", "report.html"))
    monkeypatch.setattr(film, "available", lambda: False)
    report.main(report.Arguments(folder))
    page = (folder / "report.html").read_text()
    assert "PyAV is not installed" in page
    assert "<video" not in page


@pytest.mark.parametrize("when", ["1/4", "2/4", "3/4", "4/4 online 1", "480 interactions"])
def test_stopped_and_resumed_gives_the_same_weights(
    finished: tuple[Path, Path, str], tmp_path: Path, when: str
) -> None:
    folder, videos, _ = finished
    out = tmp_path / "run"
    # Without a terminal a stage prints its line at its end: the signal then falls into the next one.
    process = subprocess.Popen(
        command("train", *TINY, "--videos", str(videos), "--out", str(out)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if when in line:
            process.send_signal(signal.SIGINT)
            break
    process.stdout.read()
    assert process.stderr is not None
    message = process.stderr.read()
    assert process.wait(timeout=120) == 130, message
    assert f"--resume {out}" in message
    resumed = run("--resume", str(out))
    assert resumed.returncode == 0, resumed.stderr
    wanted, found = final_tensors(folder), final_tensors(out)
    assert set(wanted) == set(found)
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), name


def test_killed_before_the_first_save_of_the_online_phase(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    """The newest checkpoint is then that of the phase's beginning, without an action log."""
    folder, videos, _ = finished
    out = tmp_path / "run"
    process = subprocess.Popen(
        command("train", *TINY, "--videos", str(videos), "--out", str(out)),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "240 interactions" in line:
            process.kill()
            break
    process.wait(timeout=60)
    process.stdout.close()
    resumed = run("--resume", str(out))
    assert resumed.returncode == 0, resumed.stderr
    wanted, found = final_tensors(folder), final_tensors(out)
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


def test_a_resumed_run_stays_the_same_run(finished: tuple[Path, Path, str]) -> None:
    folder, _, _ = finished
    kept = (folder / "config.json").read_text()
    for flags, message in (
        (["--seed", "5"], "seed: a run goes on with its own settings (0), got 5"),
        (["--encoder.channels", "8"], "encoder"),
        (["--preset", "paper"], "preset"),
    ):
        done = run(f"--resume={folder}", *flags)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
    assert (folder / "config.json").read_text() == kept


def test_flags_may_have_underscores_but_values_keep_theirs() -> None:
    assert train._dashed("--config_file=my_file.json") == "--config-file=my_file.json"
    assert train._dashed("my_file.json") == "my_file.json"


def test_diverged_weights_are_never_saved(tmp_path: Path) -> None:
    settings = config.from_json((config.to_json(config.preset("procgen:bossfight", "quick"))), "quick")
    owner = Run(tmp_path / "run", settings, Screen(quiet=True), "none", time.monotonic())
    owner.save()
    with torch.no_grad():
        next(owner.agent.policy.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        owner.save()
    owner.close()
    assert len(list((tmp_path / "run" / "ckpt").iterdir())) == 1


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path: Path) -> None:
    settings = config.preset("procgen:bossfight", "quick")
    owner = Run(tmp_path / "run", settings, Screen(quiet=True), "none", time.monotonic())
    owner.save()
    owner.close()
    (kept,) = (tmp_path / "run" / "ckpt").iterdir()
    (kept / "state.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        Run(tmp_path / "run", settings, Screen(quiet=True), "none", time.monotonic())


def test_sigterm_exits_75(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    _, videos, _ = finished
    long = [*TINY, "--features.updates", "100000", "--videos", str(videos), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command("train", *long), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not logger.read(tmp_path / "run"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75


def bad(tmp_path: Path, other: Path) -> dict[str, tuple[list[str], str]]:
    short = tmp_path / "short.npy"
    np.save(short, np.zeros((4, 64, 64, 3), np.uint8))
    odd = tmp_path / "odd.npy"
    np.save(odd, np.zeros((5, 64, 64), np.uint8))
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    out = ["--out", str(tmp_path / "never")]
    return {
        "unknown game": (["--env", "procgen:bosfight", *out], "did you mean 'bossfight'"),
        "no such videos": (["--videos", str(tmp_path / "nowhere"), *out], "no such file or folder"),
        "wrong shape": (["--videos", str(odd), *out], r"expected uint8 [T, H, W, C], got uint8 [5, 64, 64]"),
        "unknown preset": (["--preset", "quik", *out], "did you mean 'quick'"),
        "out of range": (["--preset", "quick", "--online.num-envs", "0", *out], "online.num_envs: expected 1 <="),
        "not a number": (["--preset", "quick", "--seed", "many", *out], "--seed"),
        "unknown flag": (["--preset", "quick", "--sed", "1", *out], "--sed"),
        "videos of another game": (
            ["--env", "procgen:miner", "--videos", str(other), *out],
            "in procgen:bossfight, not",
        ),
        "too short": (["--preset", "quick", "--videos", str(short), *out], "an episode of at least 5 frames"),
        "no replays": (["--env", "procgen:heist", "--preset", "quick", *out], "give --videos PATH"),
        "folder not empty": (["--preset", "quick", "--out", str(full)], "is not an empty folder"),
        "resume nothing": (["--resume", str(full)], "expected a run folder"),
        "device": (["--preset", "quick", "--device", "tpu", *out], "device: expected auto, cpu"),
        "no such gpu": (["--preset", "quick", "--device", "cuda:99", *out], "device"),
        "config file": (["--config-file", str(full / "file"), *out], "expected JSON"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "unknown game",
        "no such videos",
        "wrong shape",
        "unknown preset",
        "out of range",
        "not a number",
        "unknown flag",
        "videos of another game",
        "too short",
        "no replays",
        "folder not empty",
        "resume nothing",
        "device",
        "no such gpu",
        "config file",
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path: Path, dataset: Path, case: str) -> None:
    arguments, message = bad(tmp_path, dataset)[case]
    before = sorted(tmp_path.rglob("*"))
    done = run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


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


def test_print_config_and_dry_run_write_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    shown = run("--preset", "quick", "--seed", "7", "--print-config", "--out", str(out))
    assert json.loads(shown.stdout)["seed"] == 7
    dry = run("--preset", "quick", "--dry-run", "--out", str(out))
    assert dry.returncode == 0, dry.stderr
    assert "dry run" in dry.stdout
    assert not out.exists()


def test_a_configuration_file_with_flags_on_top(tmp_path: Path) -> None:
    shown = run("--preset", "quick", "--seed", "7", "--print-config")
    file = tmp_path / "config.json"
    file.write_text(shown.stdout)
    again = run("--config-file", str(file), "--online.num-envs", "32", "--print-config")
    wanted = json.loads(shown.stdout)
    wanted["online"]["num_envs"] = 32
    assert json.loads(again.stdout) == wanted
