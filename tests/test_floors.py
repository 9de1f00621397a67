"""The floors of the package: no folder imports from above, and training code cannot reach labels, rewards or scores."""

import ast
import dataclasses
from pathlib import Path

import pytest

import bcvlr_fast
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs import Step
from bcvlr_fast.videos import ExpertVideos, Manifest

PACKAGE = Path(bcvlr_fast.__file__).parent
FLOORS = (
    "system",
    "kernels",
    "envs",
    "config",
    "data",
    "nn",
    "training",
    "videos",
    "methods",
    "experts",
    "evaluation",
    "runs",
)
"""From the lowest to the highest. Modules at the top of the package are commands, above all floors."""
BLIND = ("data", "nn", "training", "methods")
"""Folders that must not see the expert's actions or scores."""
LABELS = "bcvlr_fast.videos.labels"


def modules(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Every module of the package that a file imports, at its top, in a function or by a string with its name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(str(node.module))
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value.partition(":")[0])
    return {name for name in names if name.startswith("bcvlr_fast.") and is_module(name)}


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").is_file()


def floor_of(module: str) -> int:
    """The number of the module's floor; commands are above all floors."""
    folder = module.split(".")[1]
    return FLOORS.index(folder) if folder in FLOORS else len(FLOORS)


@pytest.mark.parametrize("folder", FLOORS)
def test_no_folder_imports_from_above(folder: str) -> None:
    upward = [
        f"{file.relative_to(PACKAGE)} imports {module}"
        for file in modules(folder)
        if file.name != "__main__.py"  # a command inside a folder
        for module in sorted(imports(file))
        if floor_of(module) > FLOORS.index(folder)
    ]
    assert not upward


def test_every_folder_has_a_floor_and_only_commands_are_at_the_top() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(FLOORS)
    commands = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert commands == {"train", "record", "evaluate", "expert", "report"}
    assert all(len((PACKAGE / f"{command}.py").read_text().splitlines()) <= 90 for command in commands)


@pytest.mark.parametrize("folder", BLIND)
def test_training_code_does_not_import_labels(folder: str) -> None:
    assert not [file for file in modules(folder) if LABELS in imports(file)]


def identifiers(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in nodes
        if isinstance(node, ast.Name | ast.Attribute)
    }


@pytest.mark.parametrize("folder", ["data", "nn", "training", "methods/bcvlr"])
def test_training_code_does_not_name_a_reward(folder: str) -> None:
    names = {name for file in modules(folder) for name in identifiers(file)}
    assert not {name for name in names if "reward" in name or "score" in name or name.endswith("return")}


def readers(attribute: str) -> set[str]:
    """Folders outside envs/ with code that reads `attribute` of any object."""
    files = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "envs"]
    return {path.parent.name for path in files if attribute in identifiers(path)}


def test_only_experts_read_rewards_and_states_of_environments() -> None:
    assert readers("last_reward") == {"experts"}
    assert readers("states") == {"experts"}


def test_training_inputs_have_no_field_for_actions_or_rewards() -> None:
    assert set(Step._fields) == {"frames", "ended", "first_frames"}
    assert not {f.name for f in dataclasses.fields(ExpertVideos)} & {"action", "actions", "reward", "labels"}
    assert "action" not in " ".join(f.name for f in dataclasses.fields(Manifest))
    names = set(FrameStore.__init__.__code__.co_varnames) | set(WindowSampler.__init__.__code__.co_varnames)
    assert not {name for name in names if "action" in name or "reward" in name or "label" in name}


def test_the_check_finds_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "upward.py"
    file.write_text("def f():\n    from bcvlr_fast.runs import run\n    return run\n")
    assert max(map(floor_of, imports(file))) == FLOORS.index("runs")
