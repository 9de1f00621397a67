"""The backends of the kernel tests: every kernel test runs on each of them.

reference  plain PyTorch on the CPU
cpp        the compiled library
triton     on a GPU if there is one, otherwise in Triton's interpreter (conftest.py enables it before the import)
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

from bcvlr_fast.kernels import native

BACKENDS = ("reference", "cpp", "triton")
GPU = torch.cuda.is_available()
FEW_EXAMPLES = 5
"""Examples per test in Triton's interpreter, where one takes up to a second."""


@dataclass(frozen=True)
class Backend:
    name: str
    device: torch.device

    @property
    def interpreted(self) -> bool:
        return self.name == "triton" and self.device.type == "cpu"


def module(operation: str):
    """The module of an operation. The package attribute of the same name is the function."""
    return importlib.import_module(f"bcvlr_fast.kernels.{operation}")


@contextmanager
def running(name: str) -> Iterator[Backend]:
    """Runs the public operations on the named backend within the context."""
    device = torch.device("cuda" if GPU and name == "triton" else "cpu")
    with pytest.MonkeyPatch.context() as patch:
        if name == "reference":
            patch.setattr(native, "_reference_only", True)
        elif name == "cpp":
            if native.library() is None:
                if shutil.which("c++") or shutil.which("g++"):
                    pytest.fail("the library is not built: python setup.py build_ext --inplace")
                pytest.skip("no C++ compiler")
        elif not GPU:
            pytest.importorskip("triton", minversion="3.6")
            for operation, names in {
                "random_shift": {"_operation": "random_shift"},
                "nearest_code": {
                    "_lookup": "nearest_code",
                    "_lookup_and_update": "nearest_code",
                    "_backward": "nearest_code_backward",
                },
                "sinkhorn": {"_targets": "sinkhorn", "_loss": "sinkhorn_cross_entropy"},
            }.items():
                launchers = module(f"{operation}_triton")
                for attribute, launcher in names.items():
                    patch.setattr(module(operation), attribute, getattr(launchers, launcher))
        yield Backend(name, device)


@contextmanager
def instruction_set(isa: int) -> Iterator[None]:
    """Runs the library with an instruction set, counted from 0, within the context; skips where there is none."""
    library = native.library()
    if library is None or library.bcvlr_choose_isa(isa) != isa:
        pytest.skip("not on this machine")
    try:
        yield
    finally:
        library.bcvlr_choose_isa(9)  # the best there is


def on_each_backend(examples: int, **drawn: SearchStrategy) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that turns a check of a backend and drawn values into a test on each backend.

    Each backend gets `examples` examples. Triton's interpreter gets `FEW_EXAMPLES` of them, and all in the slow tier.
    """
    cases = [(name, FEW_EXAMPLES if name == "triton" and not GPU else examples) for name in BACKENDS]
    all_interpreted = [] if GPU else [pytest.param("triton", examples, marks=pytest.mark.slow)]

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize(("backend", "examples"), [*cases, *all_interpreted], indirect=["backend"])
        def test(backend: Backend, examples: int) -> None:
            @settings(max_examples=examples, deadline=None, database=None)
            @given(**drawn)
            def holds(**values: object) -> None:
                check(backend, **values)

            holds()

        test.__doc__ = check.__doc__
        return test

    return decorate
