"""Runs of several tasks, offline decoding, and runs on fewer video frames."""

import json
import signal
from pathlib import Path

import numpy as np

from bcvlr_fast.training import checkpoint
from bcvlr_fast.training import metrics_log as logger
from helpers.commands import invoke, refusal, run, start, wait_until
from helpers.noise import noise
from helpers.tiny import TINY


def weights(folder: Path) -> dict[str, np.ndarray]:
    saved, _ = checkpoint.load_newest(folder / "ckpt")
    assert saved is not None
    return {name: value.numpy() for name, value in saved["agent"].items()}


def test_tasks_with_different_actions_are_refused_at_once(tmp_path: Path) -> None:
    done = invoke("train", "--env", "dmc:finger_spin", "dmc:cheetah_run_backward", "--out", str(tmp_path / "run"))
    assert "dmc:cheetah_run_backward has other frames or actions than dmc:finger_spin" in refusal(done)
    assert not (tmp_path / "run").exists()


def test_tasks_share_one_pretraining_and_resume_after_a_stop(tmp_path: Path) -> None:
    miner = noise(tmp_path / "miner", "procgen:miner", [30, 30, 30])
    maze = noise(tmp_path / "maze", "procgen:maze", [30, 30, 30])
    out = tmp_path / "run"
    tasks = ["--env", "procgen:miner", "procgen:maze", "--videos", str(miner), str(maze)]
    arguments = [*TINY, *tasks, "--online.interactions", "300", "--out", str(out)]
    done = run("train", *arguments)
    assert done.returncode == 0, done.stderr
    parts = {"pretraining", "procgen-miner", "procgen-maze"}
    assert {path.name for path in out.iterdir()} == {"config.json", "status.json", *parts}
    before = weights(out / "pretraining")
    for game in ("miner", "maze"):
        own = out / f"procgen-{game}"
        assert json.loads((own / "config.json").read_text())["env"] == [f"procgen:{game}"]
        assert (own / "report.html").exists()
        stages = {row.get("stage") for row in logger.read_metrics(own)}
        assert "features" not in stages
        assert "finetuning" in stages
        after = weights(own)
        assert all((after[name] == before[name]).all() for name in after if name.startswith("encoder."))
        assert any((after[name] != before[name]).any() for name in after if name.startswith("policy."))
    (out / "procgen-maze" / "status.json").unlink()
    done = run("train", "--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert "procgen-maze" in done.stdout
    assert "procgen:miner, run folder" not in done.stdout
    assert (out / "procgen-maze" / "status.json").exists()


def test_every_task_needs_videos(tmp_path: Path) -> None:
    one = noise(tmp_path / "one", "procgen:miner", [30, 30])
    arguments = ["--env", "procgen:miner", "procgen:maze", "procgen:heist", "--videos", str(one), str(one)]
    done = invoke("train", *arguments, "--preset", "quick", "--out", str(tmp_path / "run"))
    assert "expected 3 paths, one for each environment, got 2" in refusal(done)
    assert not (tmp_path / "run").exists()


def test_offline_decoding_needs_no_interaction(dataset: Path, tmp_path: Path) -> None:
    arguments = ["--videos", str(dataset), "--labels", str(dataset), "--labelled-frames", "120"]
    done = run("train", *TINY, *arguments, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    rows = logger.read_metrics(tmp_path / "run")
    assert {"finetuning", "cloning", "evaluation"} <= {row.get("stage") for row in rows}
    assert not [row for row in rows if row.get("stage") == "round"]
    finetuned = [row["accuracy"] for row in rows if row.get("stage") == "finetuning"]
    assert len(finetuned) == 3  # rounds


def test_a_stop_in_the_pretraining_says_what_to_resume(tmp_path: Path) -> None:
    miner = noise(tmp_path / "miner", "procgen:miner", [30, 30, 30])
    out = tmp_path / "run"
    tasks = ["--env", "procgen:miner", "procgen:maze", "--videos", str(miner), str(miner)]
    arguments = [*TINY, *tasks, "--policy.updates", "100000", "--out", str(out)]
    (miner / "manifest.json").write_text((miner / "manifest.json").read_text().replace("procgen:miner", ""))
    command = start("train", *arguments)
    wait_until(lambda: (out / "pretraining" / "ckpt").exists(), 120)
    command.send_signal(signal.SIGINT)
    done = command.finish()
    assert done.stderr.splitlines()[-1].endswith(f"--resume {out}")
    assert done.returncode == 130


def test_offline_decoding_requires_labels(dataset: Path, tmp_path: Path) -> None:
    unlabeled = noise(tmp_path / "bare", "procgen:bossfight", [60, 60])
    for labels, message in (
        (unlabeled, "expected a dataset with 15 discrete actions"),
        (dataset, "expected 10,000 frames"),
    ):
        out = tmp_path / "run"
        done = invoke("train", *TINY, "--videos", str(dataset), "--labels", str(labels), "--out", str(out))
        assert message in refusal(done)


def test_a_run_on_fewer_frames_without_films_says_so(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fewer = ["--video-frames", "98", "--films", "0", "--online.interactions", "240"]
    done = run("train", *TINY, "--videos", str(dataset), *fewer, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "videos: 3 episodes, 98 frames" in done.stdout
    assert "films=0" in (out / "report.html").read_text()
    assert not (out / "videos").exists()
