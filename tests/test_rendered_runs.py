"""pytest tests/test_rendered_runs.py: whole runs of a task with continuous actions, drawn by MuJoCo."""

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bcvlr_fast import logger
from test_rendered import needs_egl
from test_resume import resume_to_the_end_of
from tiny import TINY, command, run

pytestmark = needs_egl
ENV = "dmc:point_mass_easy"
RUN = [*TINY, "--env", ENV, "--rendering", "fast", "--expert-frames", "1200"]
TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(run folder, screen) of a whole tiny run, its recording included."""
    folder = tmp_path_factory.mktemp("drawn") / "run"
    done = run(*RUN, "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def videos_of(folder: Path) -> Path:
    return Path(json.loads((folder / "videos.json").read_text())["path"])


def test_a_run_scores_and_reports_continuous_actions(drawn: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = drawn
    kept = json.loads((folder / "evaluation.json").read_text())
    assert set(kept["scores"]) == {"greedy", "random", "expert"}
    assert kept["scores"]["expert"]["mean"] > 500
    assert kept["scores"]["greedy"]["mean_length_steps"] == 500
    page = (folder / "report.html").read_text()
    assert "variance" in page
    films = sorted((folder / "videos").glob("*.mp4"))
    assert films
    monkeypatch.syspath_prepend(str(TOOLS))
    import quick_runs

    figures = quick_runs.continuous_figures(folder)
    assert set(figures) == {"own_explained", "labelling_explained", "policy_explained"}
    assert np.isfinite(list(figures.values())).all()
    row = quick_runs.row_of(folder)
    assert (row["videos"], row["score"]) == ("bundled expert", "return")
    again = run(str(folder), "--episodes", "2", module="evaluate")
    assert again.returncode == 0, again.stderr


def test_a_signal_to_the_whole_job_leaves_a_run_that_goes_on(drawn: tuple[Path, str], tmp_path: Path) -> None:
    """The processes that draw get it too; the run saves itself, and ends as one that was never stopped."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        command("train", *RUN, "--out", str(out)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "240 interactions" in line:
            os.killpg(process.pid, signal.SIGTERM)
            break
    _, message = process.communicate(timeout=120)
    assert process.returncode == 75, message
    assert len(message.splitlines()) == 1
    assert "--resume" in message
    assert any(row["phase"] == "online" for row in logger.read(out))
    resume_to_the_end_of(drawn[0], out)


def test_actions_are_decoded_from_labelled_frames(drawn: tuple[Path, str], tmp_path: Path) -> None:
    videos = str(videos_of(drawn[0]))
    done = run(*RUN, "--labels", videos, "--labelled-frames", "900", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    rounds = [row for row in logger.read(tmp_path / "run") if row.get("stage") == "finetuning"]
    assert rounds
