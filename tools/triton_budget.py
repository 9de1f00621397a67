"""Compiles every Triton kernel ahead of time for each GPU target, and compares the binaries with the budget file.

python tools/triton_budget.py [--targets 80 90 100 gfx942]

Prints registers, spills, shared memory and 16-byte stores, read from the compiled binary. Needs no GPU. Exits with 1 if
a kernel does not compile or exceeds its budget.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bcvlr_fast.kernels import nearest_code_triton, random_shift_triton, sinkhorn_triton

BUDGET = Path(__file__).parents[1] / "tests" / "triton_budget.json"
TARGETS = ("80", "90", "100", "gfx942")
POINTER = "*fp32"


@dataclass(frozen=True)
class Case:
    """A kernel with the arguments of its launcher at the shapes of the paper."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class Resources:
    registers: int
    spills: int
    """Accesses to registers spilled to memory; AMD's scalar registers spill to vector registers, which do not count."""
    shared_bytes: int
    wide_stores: int
    """16-byte stores to global memory."""


def cases() -> list[Case]:
    all_cases = []
    for channels_last in (True, False):
        for stack, dtype, bilinear in ((1, "fp32", False), (3, "fp32", False), (3, "bf16", False), (3, "fp32", True)):
            layout = "channels last" if channels_last else "contiguous"
            all_cases.append(
                Case(
                    f"random_shift {3 * stack} {dtype} {layout}{' bilinear' if bilinear else ''}",
                    random_shift_triton.random_shift_kernel,
                    {"p_frames": "*u8", "p_index": "*i64", "p_offset": "*i64", "p_out": f"*{dtype}", "N": "i32"},
                    {
                        "C": 3,
                        "H": 64,
                        "W": 64,
                        "S": stack,
                        "PAD": 4,
                        "SHIFTED": True,
                        "BILINEAR": bilinear,
                        "CHANNELS_LAST": channels_last,
                        "COLUMNS_FIRST": random_shift_triton.COLUMNS_FIRST,
                        **random_shift_triton.tile(64 if channels_last else 192 * stack, 64, bilinear),
                    },
                    random_shift_triton.OPTIONS,
                )
            )
    pointers = "p_z p_codes p_count p_sum p_quantized p_commitment p_perplexity p_parts"
    types = {
        **dict.fromkeys(pointers.split(), POINTER),
        "p_indices": "*i64",
        "p_arrivals": "*i32",
        "rows": "i32",
        "weight": "fp32",
        "restart_below": "fp32",
    }
    for name, update, known in (
        ("nearest_code update", True, {}),
        ("nearest_code", False, {}),
        ("nearest_code update, one row", True, {"rows": 1}),  # an integer of one is a constant to Triton
    ):
        all_cases.append(
            Case(
                name,
                nearest_code_triton.nearest_code_kernel,
                {name: kind for name, kind in types.items() if name not in known},
                {"K": 2, "M": 64, "D": 16, "P": 4, "UPDATE": update, **nearest_code_triton.tile(64, 16), **known},
                nearest_code_triton.OPTIONS,
            )
        )
    pointers = "p_z p_quantized p_quantized_gradient p_commitment_gradient p_out"
    all_cases.append(
        Case(
            "nearest_code backward",
            nearest_code_triton.nearest_code_backward_kernel,
            {**dict.fromkeys(pointers.split(), POINTER), "size": "i32"},
            {"ELEMENTS": nearest_code_triton.BACKWARD_ELEMENTS},
            nearest_code_triton.OPTIONS,
        )
    )
    numbers = {"parts": "i32", "B": "i32", "high": "fp32", "low": "fp32"}
    tile = sinkhorn_triton.tile(512)
    for first in (True, False):
        all_cases.append(
            Case(
                f"sinkhorn scale{' first' if first else ''}",
                sinkhorn_triton.sinkhorn_scale_kernel,
                {**dict.fromkeys(("p_scores", "p_parts", "p_out"), POINTER), **numbers},
                {"M": 512, "FIRST": first, **tile},
                sinkhorn_triton.OPTIONS,
            )
        )
    for loss in (True, False):
        all_cases.append(
            Case(
                f"sinkhorn result{' with loss' if loss else ''}",
                sinkhorn_triton.sinkhorn_result_kernel,
                {
                    **dict.fromkeys(("p_scores", "p_logits", "p_parts", "p_out", "p_loss", "p_losses"), POINTER),
                    "p_arrivals": "*i32",
                    "temperature": "fp32",
                    **numbers,
                },
                {"M": 512, "LOSS": loss, **tile},
                sinkhorn_triton.OPTIONS,
            )
        )
    all_cases.append(
        Case(
            "sinkhorn add",
            sinkhorn_triton.sinkhorn_add_kernel,
            {"p_parts": POINTER, "p_out": POINTER, "parts": "i32"},
            {"M": 512, "COLUMNS": sinkhorn_triton.ADD_COLUMNS},
            sinkhorn_triton.ADD_OPTIONS,
        )
    )
    return all_cases


def compile_for(case: Case, target: str) -> Resources:
    """Compiles a kernel for CUDA `80`, `90`, `100` or AMD `gfx942`, and reads its resources."""
    names = case.kernel.arg_names
    assert set(names) == {*case.types, *case.constants}, set(names) ^ {*case.types, *case.constants}
    source = ASTSource(
        fn=case.kernel,
        signature={name: case.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in case.constants.items()},
        # As in the launcher: torch's allocations are aligned, and the paper's sizes are multiples of 16.
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if case.types.get(name, "").startswith(("*", "i"))
        },
    )
    gpu = GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target), 32)
    compiled = triton.compile(source, target=gpu, options=case.options)
    if gpu.backend == "hip":
        text = compiled.asm["amdgcn"]
        registers, spills = (
            int(re.findall(rf"\.{field}:\s+(\d+)", text)[0]) for field in ("vgpr_count", "vgpr_spill_count")
        )
        wide = len(re.findall(r"(?:global|buffer)_store_dwordx4", text))
        return Resources(registers, spills, compiled.metadata.shared, wide)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (_cuobjdump(option, file.name) for option in ("-res-usage", "-sass"))
    registers = int(re.findall(r"REG:(\d+)", usage)[-1])
    spills = len(re.findall(r"\bSTL\b", code)) + len(re.findall(r"\bLDL\b", code))
    return Resources(registers, spills, compiled.metadata.shared, len(re.findall(r"\bSTG\.E\.128\b", code)))


def _cuobjdump(option: str, path: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([str(tool), option, path], check=True, capture_output=True, text=True).stdout


def violations(used: Resources, budget: dict[str, int], registers: int) -> list[str]:
    """The limits of its budget that a kernel exceeds."""
    return [
        *([f"registers {used.registers} > {registers}"] if used.registers > registers else []),
        *([f"spills {used.spills} > 0"] if used.spills else []),
        *(
            [f"shared {used.shared_bytes} > {budget['shared_bytes']}"]
            if used.shared_bytes > budget["shared_bytes"]
            else []
        ),
        *(["no 16-byte stores"] if budget["wide_stores"] and not used.wide_stores else []),
    ]


def main() -> int:
    """Prints one line per kernel and target; returns 1 if one exceeds its budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    targets = parser.parse_args().targets
    budgets = json.loads(BUDGET.read_text())
    assert set(budgets) == {case.name for case in cases()}, "the budget file does not name the kernels"
    over = 0
    print(f"triton {triton.__version__}")
    for target in targets:
        for case in cases():
            used = compile_for(case, target)
            budget = budgets[case.name]
            exceeded = violations(used, budget, budget["vgprs" if target.startswith("gfx") else "registers"])
            over += bool(exceeded)
            numbers = " ".join(f"{name} {value}" for name, value in asdict(used).items())
            print(
                f"{target:7s} {case.name:45s} {numbers} {'OVER: ' + ', '.join(exceeded) if exceeded else ''}",
                flush=True,
            )
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
