"""Misused commands end with exit code 2 and one line on stderr."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.commands import invoke, refusal, run_fresh

COMMANDS = {
    "train": (["--env", "procgen:bosfight"], "did you mean 'bossfight'"),
    "record": (["--env", "procgen:bosfight"], "did you mean 'bossfight'"),
    "expert": (["--env", "procgen:bossfight"], "expected one of --planner"),
    "evaluate": (["nowhere", "--seed", "-1"], "seed: expected 0 <="),
    "report": (["nowhere"], "nowhere"),
    "videos": (["import", "nowhere"], "no such file or folder"),
}


@pytest.mark.parametrize("module", COMMANDS)
def test_a_refusal_as_a_user_sees_it(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts the command in a new process, as a shell does; the other tests here run commands in the test process."""
    monkeypatch.chdir(tmp_path)
    arguments, message = COMMANDS[module]
    assert message in refusal(run_fresh(module, *arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", COMMANDS)
def test_an_unknown_flag_is_a_one_line_error(module: str) -> None:
    assert "--nonsense" in refusal(
        invoke(module, *(["."] if module in ("evaluate", "report") else []), "--nonsense", "1")
    )


OUT = ["--out", "never"]
QUICK = ["--preset", "quick", *OUT]
BAD_INPUT = {
    "unknown game": (["--env", "procgen:bosfight", *OUT], "did you mean 'bossfight'"),
    "no such videos": (["--videos", "nowhere", *OUT], "no such file or folder"),
    "wrong shape": (["--videos", "odd.npy", *OUT], "frames: expected >= 3, got 2"),
    "unknown preset": (["--preset", "quik", *OUT], "did you mean 'quick'"),
    "out of range": (["--online.num-envs", "0", *QUICK], "online.num_envs: expected 1 <="),
    "not a number": (["--seed", "many", *QUICK], "--seed"),
    "unknown flag": (["--sed", "1", *QUICK], "--sed"),
    "videos of another game": (["--env", "procgen:miner", "--videos", "videos", *OUT], "in procgen:bossfight, not"),
    "too short": (["--videos", "short.npy", *QUICK], "an episode of at least 4 frames"),
    "folder not empty": (["--preset", "quick", "--out", "full"], "is not an empty folder"),
    "resume nothing": (["--resume", "full"], "expected a run folder"),
    "profile": (["--profile", "9:3", *QUICK], "profile: expected updates FIRST:END such as 20:30, got '9:3'"),
    "device": (["--device", "tpu", *QUICK], "device: expected auto, cpu"),
    "no such gpu": (["--device", "cuda:99", *QUICK], "device"),
    "config file": (["--config-file", "full/file", *OUT], "expected JSON"),
    "config file of bytes": (["--config-file", "latin.json", *OUT], "cannot be read"),
    "no config file": (["--config-file", "no.json", *OUT], "cannot be read"),
    "preset beside a file": (["--config-file", "whole.json", "--preset", "paper", *OUT], "is of preset quick"),
    "out is no folder": (["--preset", "quick", "--out", "full/file/run"], "is not a folder"),
    "damaged labels": (["--videos", "damaged", *QUICK], "not evaluation labels"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_of_a_run_is_a_one_line_error_and_writes_nothing(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.zeros((3, 64, 64, 3), np.uint8))
    np.save("odd.npy", np.zeros((2, 64, 64, 3), np.uint8))
    Path("full").mkdir()
    Path("full/file").write_text("mine")
    Path("latin.json").write_bytes(b'{"env": "\xff"}')
    Path("whole.json").write_text('{"preset": "quick"}')
    labels = Path(shutil.copytree(dataset, "damaged")) / "evaluation_only.npz"
    labels.write_bytes(labels.read_bytes()[:-40])
    flags, message = BAD_INPUT[case]
    before = sorted(tmp_path.rglob("*"))
    assert message in refusal(invoke("train", *flags))
    assert sorted(tmp_path.rglob("*")) == before
