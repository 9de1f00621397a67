"""The tree of tests mirrors the package, and no test imports another."""

import ast
from pathlib import Path

import pytest

import bcvlr_fast

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = Path(bcvlr_fast.__file__).parent
OWN_FOLDERS = {"helpers", "e2e", "tools", "experiments"}
"""Folders without a counterpart in the package: shared code, complete runs, and tests of programs outside it."""
TEST_FILES = sorted(TESTS.rglob("test_*.py"))
NOT_SHARED = {path.stem for path in [*TEST_FILES, *(ROOT / "bench").glob("*.py")]} - {"conftest"}
"""Names of the modules that no test may import: tests and benchmarks."""


def test_folders_mirror_the_package() -> None:
    folders = {str(path.parent.relative_to(TESTS)) for path in TEST_FILES} - OWN_FOLDERS
    unmatched = {name for name in folders if not (PACKAGE / name).is_dir() and not (PACKAGE / f"{name}.py").exists()}
    assert not unmatched


def test_helpers_are_in_one_folder() -> None:
    allowed = {path for path in TESTS.rglob("*.py") if path.parent == TESTS / "helpers" or path.name == "conftest.py"}
    assert set(TESTS.rglob("*.py")) - allowed == set(TEST_FILES)


@pytest.mark.parametrize("file", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_imports_a_test_or_a_benchmark(file: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            imported.add(node.module or "")
    words = {word for name in imported for word in name.split(".") if not name.startswith(("bcvlr_fast", "helpers"))}
    assert not words & NOT_SHARED
    assert not {"tests", "bench"} & {name.partition(".")[0] for name in imported}
