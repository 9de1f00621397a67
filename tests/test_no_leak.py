"""Nothing that trains can reach expert actions, returns or rewards."""

import ast
import dataclasses
from pathlib import Path

import pytest

import bcvlr_fast
from bcvlr_fast.data.frames import FrameStore, WindowSampler
from bcvlr_fast.envs import Step
from bcvlr_fast.videos import ExpertVideos, Manifest

PACKAGE = Path(bcvlr_fast.__file__).parent
TRAINING = ["features", "latent_actions", "policy", "online", "replay", "frames", "videos.dataset", "agent", "stage"]
TRAINING += ["batches", "layers"]
FORBIDDEN = {"bcvlr_fast.evaluation_labels", "bcvlr_fast.health", "bcvlr_fast.evaluate", "bcvlr_fast.record"}
FORBIDDEN |= {f"bcvlr_fast.experts.{name}" for name in ("replays", "behaviours", "sac", "sac_training", "ppo")}


def imports(module: str) -> set[str]:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("bcvlr_fast.") and exists(name)}


def exists(module: str) -> bool:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("name", TRAINING)
def test_training_code_reaches_no_labels(name: str) -> None:
    seen, todo = set(), [f"bcvlr_fast.{name}"]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        todo += imports(module)
    assert not seen & FORBIDDEN


@pytest.mark.parametrize("name", TRAINING)
def test_training_code_names_no_reward(name: str) -> None:
    words = {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(ast.parse(PACKAGE.joinpath(*name.split(".")).with_suffix(".py").read_text()))
        if isinstance(node, ast.Name | ast.Attribute)
    }
    assert not {w for w in words if "reward" in w or "score" in w or "return" in w}


def readers(attribute: str) -> set[str]:
    """Files outside of envs/ that read an `attribute` of something."""
    files = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "envs"]
    trees = {path.name: ast.walk(ast.parse(path.read_text())) for path in files}
    return {name for name, nodes in trees.items() if any(getattr(node, "attr", "") == attribute for node in nodes)}


def test_rewards_and_states_of_the_environments_are_read_by_experts_alone() -> None:
    assert readers("last_reward") == {"ppo.py"}
    assert readers("states") == {"record.py", "sac.py"}  # sac.py has states of its own
    assert readers("reward") == {"ppo.py", "sac.py", "sac_training.py"}


def test_what_training_is_handed_has_no_field_for_them() -> None:
    assert set(Step._fields) == {"frames", "ended", "first_frames"}
    assert {f.name for f in dataclasses.fields(ExpertVideos)} == {"frames", "manifest", "path"}
    assert "action" not in " ".join(f.name for f in dataclasses.fields(Manifest))
    store_fields = set(FrameStore.__init__.__code__.co_varnames) | set(WindowSampler.__init__.__code__.co_varnames)
    assert not {f for f in store_fields if "action" in f or "reward" in f or "label" in f}
