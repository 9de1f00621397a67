"""Cost of software rendering in DMControl and MetaWorld: python bench/rendering.py [--tasks dmc:cheetah_run ...]

Measures CPU milliseconds over all threads, and the difference of frames from stock and from stock rendered at 256 x 256
and averaged, for the settings of envs/assets.py and intermediate ones. All settings of a task step side by side with
the same actions, are checked to have bit-identical states, and render in alternation. The time of a frame is the
minimum of three, that of a setting the median over frames. Rows go to results/rendering.jsonl; for each task, the frame
with the largest difference goes to docs/rendering.png.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bcvlr_fast.envs import SUITES, mujoco, spec
from bcvlr_fast.envs.assets import Setting
from bcvlr_fast.envs.simulation import SIDE, Simulation
from rows import RESULTS, Row, write

_TASKS = (
    "dmc:reacher_hard",
    "dmc:point_mass_easy",
    "dmc:finger_spin",
    "dmc:ball_in_cup_catch",
    "dmc:cheetah_run",
    "metaworld:drawer-open",
    "metaworld:reach",
    "metaworld:faucet-open",
)
_ENVS, _PICTURES, _STEPS_BETWEEN, _TIMES = 5, 10, 8, 3
_ENLARGED, _GAP, _LABEL = 4, 8, 22  # factor, pixels, pixels
_SUPERSAMPLED, _AVERAGED = "fast, no MSAA, 128 x 128 averaged", "stock, 256 x 256 averaged"
_LARGER = {_SUPERSAMPLED: 2, _AVERAGED: 4}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=_TASKS)
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "docs" / "rendering.png")
    arguments = parser.parse_args()
    rows: list[Row] = []
    lines: list[Image.Image] = []
    print(f"{'task':22s} {'setting':34s}  CPU ms  ratio   mean  max  mean to averaged")
    for name in arguments.tasks:
        pictures, cpu_ms = _measured(name)
        of_task = list(_rows(name, pictures, cpu_ms))
        for row in of_task:
            print(
                f"{name:22s} {row['setting']:34s} {row['cpu_ms']:7.2f} {row['ratio']:6.2f} "
                f"{row['mean_difference']:6.3f} {row['max_difference']:4d} {row['mean_difference_to_averaged']:17.3f}",
                flush=True,
            )
        rows += of_task
        lines.append(_line(of_task, pictures["stock"], pictures["fast"]))
    write(arguments.rows / "rendering.jsonl", rows, lambda row: (row["task"], row["setting"]), torch.device("cpu"))
    _stacked(lines).save(arguments.picture, optimize=True)
    print(f"{arguments.rows / 'rendering.jsonl'}, {arguments.picture}")


def _settings(fast: Setting) -> dict[str, Setting]:
    no_msaa = fast._replace(quality=(*fast.quality, ("offsamples", 0)))
    settings = {
        "stock": Setting(),
        "shadow map 256": Setting((("shadowsize", 256),)),
        "shadow map 256, no MSAA": Setting((("shadowsize", 256), ("offsamples", 0))),
        "fast": fast,
        "fast, no MSAA": no_msaa,
        _SUPERSAMPLED: no_msaa,
        _AVERAGED: Setting(),
    }
    if fast.cell_m is not None:
        settings["fast, every triangle of the robot"] = fast._replace(cell_m=None)
    return settings


def _measured(name: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Frames [n, 3, 64, 64] uint8 and CPU milliseconds per frame, by setting."""
    suite, task = name.split(":")
    models, simulate = SUITES[suite].models, SUITES[suite].simulation
    assert models is not None
    assert simulate is not None
    settings = _settings(models.settings["fast"])
    simulations: dict[str, Simulation] = {}
    with mock.patch.dict(models.settings, settings):
        for setting in settings:
            with mock.patch.object(mujoco, "SIDE", SIDE * _LARGER.get(setting, 1)):
                seeds = [100 * i for i in range(_ENVS)]
                simulations[setting] = simulate(task, seeds, setting)  # type: ignore[arg-type]
    ids = np.arange(_ENVS)
    for simulation in simulations.values():
        simulation.reset(ids)
        simulation.render(ids)  # compiles shaders
    pictures: dict[str, list[np.ndarray]] = {setting: [] for setting in settings}
    cpu_s: dict[str, list[float]] = {setting: [] for setting in settings}
    rng = np.random.default_rng(0)
    for _ in range(_PICTURES):
        actions = spec(name).actions.draw(rng, _ENVS)  # held, to move further
        for _ in range(_STEPS_BETWEEN):
            states = {setting: simulation.step(actions, ids)[0] for setting, simulation in simulations.items()}
        assert len({state.tobytes() for state in states.values()}) == 1, name
        for setting, simulation in simulations.items():
            seconds, drawn = min((_timed(simulation, ids) for _ in range(_TIMES)), key=lambda timed: timed[0])
            pictures[setting].append(drawn)
            cpu_s[setting].append(seconds / _ENVS)
    for simulation in simulations.values():
        simulation.close()
    return (
        {setting: np.concatenate(drawn) for setting, drawn in pictures.items()},
        {setting: 1e3 * float(np.median(seconds)) for setting, seconds in cpu_s.items()},
    )


def _timed(simulation: Simulation, ids: np.ndarray) -> tuple[float, np.ndarray]:
    start = time.process_time()
    drawn = simulation.render(ids)
    times = drawn.shape[-1] // SIDE
    if times > 1:
        blocks = drawn.reshape(len(ids), 3, SIDE, times, SIDE, times)
        drawn = blocks.mean((3, 5)).round().astype(np.uint8)
    return time.process_time() - start, drawn


def _rows(name: str, pictures: dict[str, np.ndarray], cpu_ms: dict[str, float]) -> Iterator[Row]:
    for setting, drawn in pictures.items():
        difference = _difference(drawn, pictures["stock"])
        yield {
            "task": name,
            "setting": setting,
            "cpu_ms": round(cpu_ms[setting], 3),
            "ratio": round(cpu_ms["stock"] / cpu_ms[setting], 2),
            "mean_difference": round(float(difference.mean()), 4),
            "max_difference": int(difference.max()),
            "mean_difference_to_averaged": round(float(_difference(drawn, pictures[_AVERAGED]).mean()), 4),
            "pictures": len(drawn),
        }


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.int16) - b)


def _line(rows: list[Row], stock: np.ndarray, fast: np.ndarray) -> Image.Image:
    """stock | fast | 8 times their difference, for the frame with the largest difference, with a label above."""
    difference = _difference(stock, fast)
    worst = int(difference.mean((1, 2, 3)).argmax())
    shown = (stock[worst], fast[worst], (8 * difference[worst]).clip(0, 255).astype(np.uint8))
    side = SIDE * _ENLARGED
    line = Image.new("RGB", (3 * side + 2 * _GAP, _LABEL + side), "white")
    for i, picture in enumerate(shown):
        large = Image.fromarray(picture.transpose(1, 2, 0)).resize((side, side), Image.Resampling.NEAREST)
        line.paste(large, (i * (side + _GAP), _LABEL))
    by_setting = {row["setting"]: row for row in rows}
    ours = by_setting["fast"]
    label = (
        f"{ours['task']}: stock {by_setting['stock']['cpu_ms']:.1f} ms, fast {ours['cpu_ms']:.1f} ms, "
        f"8 x difference (mean {difference[worst].mean():.2f} of 255 here, {ours['mean_difference']:.2f} over all)"
    )
    ImageDraw.Draw(line).text((0, 3), label, "black", ImageFont.load_default(13))
    return line


def _stacked(lines: list[Image.Image]) -> Image.Image:
    height = sum(line.height + _GAP for line in lines) - _GAP
    page = Image.new("RGB", (lines[0].width + 2 * _GAP, height + 2 * _GAP), "white")
    top = _GAP
    for line in lines:
        page.paste(line, (_GAP, top))
        top += line.height + _GAP
    return page


if __name__ == "__main__":
    main()
