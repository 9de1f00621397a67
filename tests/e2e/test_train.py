"""A run with tiny settings from start to end, and the files that it writes."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import collect_runs
from bcvlr_fast import report
from bcvlr_fast.envs import make
from bcvlr_fast.experts import replays
from bcvlr_fast.training import metrics_log as logger
from bcvlr_fast.videos import mp4
from helpers.commands import invoke, run
from helpers.tiny import TINY


def test_a_run_writes_all_its_files(finished: tuple[Path, Path, str]) -> None:
    folder, _, screen = finished
    assert "preset quick (as asked)" in screen.splitlines()[0]
    assert "about" in screen.splitlines()[1]
    for name in ("config.json", "environment.json", "metrics.jsonl", "evaluation.json", "report.html", "README.md"):
        assert (folder / name).stat().st_size > 0, name
    rows = logger.read_metrics(folder)
    assert {"features", "latent_actions", "cloning", "finetuning", "round", "evaluation"} <= {
        r.get("stage") for r in rows
    }
    rounds = [r["interactions"] for r in rows if r.get("stage") == "round"]
    assert rounds == [240, 480, 700]
    scores = json.loads((folder / "evaluation.json").read_text())["scores"]
    assert set(scores) == {"sampled", "greedy", "unstuck", "random"}
    assert all(s["episodes"] == 3 for s in scores.values())
    page = (folder / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert page.count("<svg") >= 3
    assert page.count("<video") == len(list((folder / "videos").glob("*.mp4"))) == 1


def test_films_of_another_size_and_rate_are_imported_automatically(tmp_path: Path) -> None:
    """The films are 128 x 128 at 60 frames per second, like those of a screen recorder."""
    clips = tmp_path / "clips"
    clips.mkdir()
    expert = replays.load_bundled("coinrun")
    shortest = np.argsort(expert.length)[:3]
    for name, episode in zip("abc", shortest, strict=True):
        actions = expert.episode_actions(int(episode))
        env = make("procgen:coinrun", 1, 0, level=int(expert.level[episode]))
        frames = [env.reset()[0]] + [env.step(np.array([action])).frames[0] for action in actions]
        mp4.write_mp4(clips / f"{name}.mp4", np.stack(frames).repeat(4, axis=0).transpose(0, 2, 3, 1), 60, scale=2)
    flags = ["--env", "procgen:coinrun", "--videos", str(clips), "--online.interactions", "240"]
    done = run("train", *TINY, *flags, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    steps = expert.length[shortest] + 1
    assert f"{steps.sum()} frames in 3 episodes, 128 x 128 to 64 x 64 x 3, 15 of 60 frames a second" in done.stdout
    assert "are they from this environment?" not in done.stdout
    again = invoke("train", *TINY, *flags, "--out", str(tmp_path / "again"), "--dry-run")
    assert again.returncode == 0, again.stderr
    assert "importing" not in again.stdout


def test_a_run_reports_where_its_time_went(finished: tuple[Path, Path, str]) -> None:
    folder, _, screen = finished
    status = json.loads((folder / "status.json").read_text())
    spent = status["spent"]
    assert {name: part["count"] for name, part in spent.items()} == {
        "features": 6,
        "latent_actions": 6,
        "pre_imitation": 32,
        "cloning": 3 * 20,
        "collecting": 700,
        "finetuning": 3 * 4,
        "final_cloning": 24,
        "evaluation": 3,
        "report": 1,
    }
    assert all(part["seconds"] > 0 for part in spent.values())
    assert sum(part["seconds"] for part in spent.values()) < status["minutes"] * 60 + 1
    assert "time: " in screen
    assert "latent actions" in screen


@pytest.mark.parametrize("learner", ["features", "latent_actions", "cloning", "finetuning"])
def test_profiled_updates_leave_a_trace(finished: tuple[Path, Path, str], learner: str) -> None:
    folder, _, _ = finished
    events = json.loads(gzip.decompress((folder / "traces" / f"{learner}.json.gz").read_bytes()))["traceEvents"]
    names = {event.get("name") for event in events}
    steps = [name for name in names if name and name.startswith(f"{learner} ")]
    assert 1 <= len(steps) <= 4
    assert {"bcvlr_fast::random_shift", "aten::convolution_backward"} <= names


def test_evaluate_and_report_again(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = json.loads((folder / "evaluation.json").read_text())
    done = run("evaluate", str(folder), "--episodes", "3")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "evaluation.json").read_text()) == before
    (folder / "report.html").unlink()
    done = run("report", str(folder))
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").exists()


def test_collected_rows_hold_a_runs_scores_and_appear_once(
    finished: tuple[Path, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, videos, _ = finished
    for _ in range(2):
        collect_runs.main(tmp_path / "rows.jsonl", [folder, folder])
    (row,) = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert row["scores"] == json.loads((folder / "evaluation.json").read_text())["scores"]
    assert (row["env"], row["seed"], row["videos"]) == ("procgen:bossfight", 0, videos.name)
    assert row["changed"]["online.interactions"] == 700
    assert row["changed"]["encoder.channels"] == 4
    sampled = row["scores"]["sampled"]
    assert f"| {sampled['mean']:.2f} ({sampled['low']:.2f} .. {sampled['high']:.2f}) |" in capsys.readouterr().out


def test_a_report_without_pyav_says_so(
    finished: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("videos", "report.html"))
    monkeypatch.setattr(mp4, "available", lambda: False)
    report.main(report.Arguments(folder))
    page = (folder / "report.html").read_text()
    assert "PyAV is not installed" in page
    assert "<video" not in page


def test_print_config_and_dry_run_write_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = invoke("train", "--preset", "quick", "--seed", "7", "--print-config", "--out", str(out))
    assert json.loads(printed.stdout)["seed"] == 7
    dry = invoke("train", "--preset", "quick", "--dry-run", "--out", str(out))
    assert dry.returncode == 0, dry.stderr
    assert "dry run" in dry.stdout
    assert not out.exists()


def test_flags_override_a_configuration_file(tmp_path: Path) -> None:
    printed = invoke("train", "--preset", "quick", "--seed", "7", "--print-config")
    file = tmp_path / "config.json"
    file.write_text(printed.stdout)
    again = invoke("train", "--config-file", str(file), "--online.num-envs", "32", "--print-config")
    expected = json.loads(printed.stdout)
    expected["online"]["num_envs"] = 32
    actual = json.loads(again.stdout)
    assert actual.pop("sources")["online.num_envs"] == "command line"
    del expected["sources"]
    assert actual == expected
