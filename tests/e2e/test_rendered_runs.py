"""Complete runs of a task with continuous actions, rendered by MuJoCo."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import collect_runs
from bcvlr_fast.runs.training import VIDEOS
from bcvlr_fast.training import metrics_log as logger
from helpers.commands import run
from helpers.egl import needs_egl
from helpers.shared import filled_once
from helpers.tiny import TINY, assert_resumes_to_the_end_of, signaled

pytestmark = needs_egl
ENV = "dmc:point_mass_easy"
RUN = [*TINY, "--env", ENV, "--rendering", "fast", "--expert-frames", "600", "--episodes", "1"]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete tiny run, recording included. Tests that modify it copy it first."""

    def fill(folder: Path) -> None:
        done = run("train", *RUN, "--out", str(folder / "run"))
        assert done.returncode == 0, done.stderr

    return filled_once(tmp_path_factory, "drawn", fill) / "run"


def test_a_run_scores_and_reports_continuous_actions(drawn: Path, tmp_path: Path) -> None:
    evaluation = json.loads((drawn / "evaluation.json").read_text())
    assert set(evaluation["scores"]) == {"greedy", "random", "expert"}
    assert evaluation["scores"]["expert"]["mean"] > 500
    assert evaluation["scores"]["greedy"]["mean_length_steps"] == 500
    page = (drawn / "report.html").read_text()
    assert "variance" in page
    films = sorted((drawn / "videos").glob("*.mp4"))
    assert films
    row = collect_runs.row_of(drawn)
    figures = [row[name] for name in ("own_decoder_variance_explained", "labelling_explained", "policy_explained")]
    assert np.isfinite(figures).all()
    assert (row["videos"], row["score"]) == ("bundled expert", "return")
    copy = shutil.copytree(drawn, tmp_path / "run")
    again = run("evaluate", str(copy), "--episodes", "1")
    assert again.returncode == 0, again.stderr


def test_a_signal_to_the_whole_job_leaves_a_resumable_run(drawn: Path, tmp_path: Path) -> None:
    """The run saves itself and, once resumed, ends like one that was never stopped."""
    out = tmp_path / "run"
    code, message = signaled("240 interactions", signal.SIGTERM, *RUN, "--out", str(out), new_session=True)
    assert code == 75, message
    assert len(message.splitlines()) == 1
    assert "--resume" in message
    assert any(row["phase"] == "online" for row in logger.read_metrics(out))
    assert_resumes_to_the_end_of(drawn, out)


@pytest.mark.slow
def test_actions_are_decoded_from_labeled_frames(drawn: Path, tmp_path: Path) -> None:
    done = run(
        "train",
        *RUN,
        "--labels",
        str(Path(json.loads((drawn / VIDEOS).read_text())["path"])),
        "--labelled-frames",
        "900",
        "--out",
        str(tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    rounds = [row for row in logger.read_metrics(tmp_path / "run") if row.get("stage") == "finetuning"]
    assert rounds
