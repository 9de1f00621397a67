"""Builds csrc/ into one library with a C interface, which depends on neither torch nor Python.

Every kernel is compiled once per instruction set, and the library selects one at run time. Without a C++ compiler, the
package still installs and runs its PyTorch references.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

HEADERS = [f"csrc/{name}.h" for name in ("kernels", "simd", "convolution", "weight_gradient")]
COMMON = ["dispatch", "parallel"]
KERNELS = ["random_shift", "nearest_code", "sinkhorn", "stack_frames"]
NO_PAINTER = "bcvlr_fast.experts._no_painter"
X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTION_SETS: dict[str, list[str]] = {"baseline": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = [
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma"),
        "-mprefer-vector-width=512",
    ]
# convolution.cpp needs these instructions, which gcc 10 and clang 9 introduced. gcc 12 warns about uninitialized
# vectors in its own headers.
BF16_FLAGS = ["-mavx512bf16", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-pthread", "-Wall", "-Wextra"]
# These kernels round after each operation, as their references do.
CONTRACTION = {"random_shift": "-ffp-contract=off", "stack_frames": "-ffp-contract=off"}


class BuildLibrary(build_ext):  # type: ignore[misc]
    """Compiles each kernel for each instruction set and links one shared library without the Python tag in its name."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        if ext.name == NO_PAINTER:
            objects = self.compiler.compile(ext.sources, output_dir=self.build_temp, extra_postargs=["-O2", "-fPIC"])
            self._link(objects, ext, [])
        else:
            self._build_kernels(ext)

    def _link(self, objects: list[str], ext: Extension, flags: list[str]) -> None:
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects, target, extra_postargs=flags, target_lang="c++", build_temp=self.build_temp
        )

    def _build_kernels(self, ext: Extension) -> None:
        # BCVLR_FAST_CXXFLAGS adds flags, such as -fsanitize=address,undefined.
        more = os.environ.get("BCVLR_FAST_CXXFLAGS", "").split()
        common = [*FLAGS, *(["-DBCVLR_X86"] if X86 else []), *more]
        objects: list[str] = []

        def compile_one(name: str, folder: str, flags: list[str]) -> None:
            objects.extend(
                self.compiler.compile(
                    [f"csrc/{name}.cpp"],
                    output_dir=os.path.join(self.build_temp, folder),
                    extra_postargs=[*common, *flags],
                    depends=ext.depends,
                )
            )

        bf16 = []
        if X86:
            try:
                compile_one("convolution", "bf16", [*INSTRUCTION_SETS["avx512"], *BF16_FLAGS])
                bf16 = ["-DBCVLR_BF16"]
            except CompileError as error:
                self.warn(f"building without bf16 convolutions: {error}")
        for name in COMMON:
            compile_one(name, "", bf16)
        for isa, flags in INSTRUCTION_SETS.items():
            for name in KERNELS:
                contraction = CONTRACTION.get(name, "-ffp-contract=fast")
                compile_one(name, isa, [f"-DBCVLR_ISA={isa}", contraction, *flags])
        self._link(objects, ext, ["-pthread", *more])


class AnyPython(bdist_wheel):  # type: ignore[misc]
    """Wheel tag: the library works with every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


sources = [f"csrc/{name}.cpp" for name in (*COMMON, *KERNELS, *(["convolution"] if X86 else []))]
setup(
    ext_modules=[
        Extension("bcvlr_fast.kernels._cpu", sources, depends=HEADERS, optional=True),
        Extension(NO_PAINTER, ["csrc/no_painter.c"], optional=True),
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython},
)
