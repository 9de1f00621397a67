"""Benchmarks of each operation against its peers: pytest bench/

In every round, a peer runs twice, then this package runs twice; the second calls are timed, because the first ones
refill the caches. A ratio compares neighboring calls, and the median over rounds is reported. If both sides compute the
same, that is checked before either is timed. Benchmarks run with one thread on a CPU unless they say otherwise, and as
replays of CUDA graphs on a GPU if both sides can be captured. Compiled peers are recompiled for each case. Rows go to
results/kernels.jsonl; bench_update.py has its own procedure.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bcvlr_fast.kernels import describe
from bcvlr_fast.system.host import machine
from bcvlr_fast.training.compute import choose_compute, choose_device
from rows import RESULTS, Row, reported, write

_SECONDS = 1.5
_rows: list[dict[str, Any]] = []

Call = Callable[[], Any]
Compare = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, default=RESULTS, help="folder of result rows; replaces those of this machine")
    parser.addoption("--device", default="auto", help="auto, cpu or cuda")
    parser.addoption("--official", type=Path, help="updates: checkout of the official code, or the folder of both")
    parser.addoption("--cleanrl", type=Path, help="ppo: checkout of CleanRL")
    parser.addoption("--cleanrl-python", help="ppo: Python interpreter that runs its ppo_procgen.py")
    parser.addoption(
        "--scale", choices=("paper", "quick"), default="paper", help="updates: sizes of networks and batches"
    )
    parser.addoption("--compiled", action="store_true", help="updates: also with torch.compile")
    parser.addoption(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="updates: precision of this package"
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device; reuses freed memory, which speeds up both sides, and one thread on a CPU."""
    chosen = choose_device(request.config.getoption("--device"))
    choose_compute(chosen, "fp32")
    torch.set_float32_matmul_precision("highest")  # a peer in TF32 would select other codes
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield chosen
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """Resets the compiler: otherwise, shapes that differ from the last case become symbolic."""
    torch._dynamo.reset()


@pytest.fixture
def compare(benchmark: Any, device: torch.device) -> Compare:
    """compare(operation, case, peer, ours, theirs): times both in alternation and stores the row."""

    def run(operation: str, case: str, peer: str, ours: Call, theirs: Call, *, gigabytes: float | None = None) -> None:
        ours, theirs, how = _ready(ours, theirs, device)
        theirs_s: list[float] = []

        def peer_first() -> None:
            theirs_s.append(_second_call_s(theirs))
            ours()

        for _ in range(3):
            peer_first()
            once = _second_call_s(ours)
        rounds = max(15, min(300, int(_SECONDS / (once + theirs_s[-1]))))
        benchmark.group = f"{operation} {case}"
        benchmark.pedantic(ours, setup=peer_first, rounds=rounds, warmup_rounds=1)
        if benchmark.stats is None:
            return  # --benchmark-disable
        ours_s = list(benchmark.stats.stats.data)
        ratios = sorted(b / a for a, b in zip(ours_s, theirs_s[-rounds:], strict=True))
        row = {
            "operation": operation,
            "case": case,
            "peer": peer,
            "ours_ms": statistics.median(ours_s) * 1e3,
            "peer_ms": statistics.median(theirs_s[-rounds:]) * 1e3,
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "ours": describe(device),
            "how": how,
        }
        if gigabytes is not None:
            row["ours_gb_per_s"] = gigabytes / statistics.median(ours_s)
            row["peer_gb_per_s"] = gigabytes / statistics.median(theirs_s[-rounds:])
        _rows.append(row)

    return run


def _second_call_s(call: Call) -> float:
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _ready(ours: Call, theirs: Call, device: torch.device) -> tuple[Call, Call, str]:
    """Both calls as timed: on a GPU, _REPLAYED calls with a synchronization, as graphs if both can be captured."""
    if device.type == "cpu":
        return ours, theirs, "called"
    captured = [_captured(call) for call in (ours, theirs)]
    how = "in graphs" if all(captured) else "called"

    def waited(call: Call, graph: torch.cuda.CUDAGraph | None) -> Call:
        def run() -> None:
            if how == "in graphs" and graph is not None:
                graph.replay()
            else:
                for _ in range(_REPLAYED):
                    call()
            torch.cuda.synchronize()

        return run

    return waited(ours, captured[0]), waited(theirs, captured[1]), how


def _captured(call: Call) -> torch.cuda.CUDAGraph | None:
    """_REPLAYED calls in a graph; None if the call synchronizes with the device."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(_REPLAYED):
                call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph


_REPLAYED = 20  # number of calls per timing on a GPU, by which times are divided


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints the ratios and writes the rows."""
    where, device = config.getoption("--rows"), choose_device(config.getoption("--device"))
    if _rows:
        _summarize_operations(terminalreporter, where / "kernels.jsonl", device)
    if reported.get("updates"):
        _summarize_updates(terminalreporter, reported["updates"], where / "updates.jsonl", device)
    _summarize_others(terminalreporter, where, device)


_KEYS = {
    "planner": ("what", "game", "candidates", "workers"),
    "imports": ("source", "peer"),
    "ppo": ("game", "peer", "precision"),
}
"""Key fields of the rows of other benchmarks, by file name."""


def _summarize_others(terminalreporter: Any, where: Path, device: torch.device) -> None:
    for name, keys in _KEYS.items():
        if rows := reported.get(name):
            terminalreporter.section(name)
            for row in rows:
                shown = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
                terminalreporter.write_line("  ".join(f"{k} {v}" for k, v in zip(row, shown, strict=True)))
            write(where / f"{name}.jsonl", rows, functools.partial(_values, keys), device)
            terminalreporter.write_line(f"rows: {where / name}.jsonl")


def _values(keys: tuple[str, ...], row: Row) -> tuple[object, ...]:
    return tuple(row.get(key) for key in keys)


def _summarize_operations(terminalreporter: Any, path: Path, device: torch.device) -> None:
    where = machine()
    calls = _REPLAYED if where["gpu"] and _rows[0]["ours"].startswith("Triton") else 1
    for row in _rows:
        row["ours_ms"], row["peer_ms"] = row["ours_ms"] / calls, row["peer_ms"] / calls
        for name in ("ours_gb_per_s", "peer_gb_per_s"):
            if name in row:
                row[name] *= calls
    terminalreporter.section("ratios: peer's time / ours, median and quartiles of the rounds")
    terminalreporter.write_line(f"{where['gpu'] or where['cpu']}, ours: {_rows[0]['ours']}, torch {where['torch']}")
    for row in _rows:
        low, high = row["ratio_quartiles"]
        bandwidth = f"  {row['ours_gb_per_s']:.1f} GB/s" if "ours_gb_per_s" in row else ""
        terminalreporter.write_line(
            f"{row['operation']:24s} {row['case']:32s} {row['peer']:30s} "
            f"{row['peer_ms']:9.3f} / {row['ours_ms']:7.3f} ms = "
            f"{row['ratio']:6.2f} ({low:.2f} .. {high:.2f}){bandwidth}"
        )
    write(path, _rows, lambda row: (row["operation"], row["case"], row["peer"], row["threads"]), device)
    terminalreporter.write_line(f"rows: {path}")


def _summarize_updates(terminalreporter: Any, rows: list[Row], path: Path, device: torch.device) -> None:
    terminalreporter.section("an update of each phase: ms, and how many times ours")
    for row in rows:
        sides = [
            f"{name} {ms:.4g}" + (f" ({row['ratio'][name]:.2f}x)" if name in row["ratio"] else "")
            for name, ms in row["update_ms"].items()
        ]
        what = f"{row['env']:18s} {row['phase']:15s} {row['scale']:6s} {row['precision']:9s}"
        terminalreporter.write_line(f"{what} {'  '.join(sides)}")
    for env, peer in {(row["env"], name): None for row in rows for name in row["ratio"]}:
        ratios = [row["ratio"][peer] for row in rows if row["env"] == env and peer in row["ratio"]]
        mean = statistics.geometric_mean(ratios)
        terminalreporter.write_line(f"{env}, {peer}: geometric mean {mean:.2f}x, least {min(ratios):.2f}x")
    write(path, rows, functools.partial(_values, ("env", "phase", "scale", "precision", "threads")), device)
    terminalreporter.write_line(f"rows: {path}")
