"""Frames per second of environments from pixels, compared with the suites' own environments.

python bench/env_speed.py [--tasks dmc:reacher_hard ...]

The peer is dm_control's or MetaWorld's own environment in Gymnasium's AsyncVectorEnv, one process each, rendered with
EGL. Both sides repeat every action twice and return one 64 x 64 frame per agent step. The benchmark checks that the
peer's frames have the same format; tests/envs/test_simulated.py compares the frames themselves with dm_control's. Sides
alternate, and the median of the rounds is reported. This package is timed with default rendering (fast on a CPU) and
with stock models. Rows go to results/env_speed.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv

from bcvlr_fast.envs import make, parse_name, spec
from rows import RESULTS, Row, write

_TASKS = ("dmc:reacher_hard", "dmc:finger_spin", "dmc:ball_in_cup_catch", "metaworld:drawer-open")
_SIZES = (1, 2, 4, 8, 16)
_ROUNDS, _MIN_S = 3, 2.0
_SIDE = 64


class Wrapped(gymnasium.Env):
    """An environment of a suite as a user would wrap it; `picture` renders it."""

    observation_space = gymnasium.spaces.Box(0, 255, (_SIDE, _SIDE, 3), np.uint8)

    def __init__(self, env: Any, action_dim: int, picture: Callable[[], np.ndarray]) -> None:
        self._env, self._picture = env, picture
        self.action_space = gymnasium.spaces.Box(-1, 1, (action_dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._env.reset()
        return self._picture(), {}


class DmControl(Wrapped):
    """Task of dm_control."""

    def __init__(self, task: str) -> None:
        from dm_control import suite

        domain = next(d for d, t in suite.ALL_TASKS if task == f"{d}_{t}")
        env = suite.load(domain, task.removeprefix(f"{domain}_"))
        draw = functools.partial(env.physics.render, _SIDE, _SIDE, camera_id=0)
        super().__init__(env, env.action_spec().shape[0], draw)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        steps = [self._env.step(action) for _ in range(2)]
        return self._picture(), sum(step.reward or 0.0 for step in steps), False, steps[-1].last(), {}


class MetaWorld(Wrapped):
    """Task of MetaWorld."""

    def __init__(self, task: str) -> None:
        import metaworld  # noqa: F401  registers its ids

        env = gymnasium.make(
            "Meta-World/MT1", env_name=f"{task}-v3", render_mode="rgb_array", width=_SIDE, height=_SIDE, camera_id=0
        )
        super().__init__(env, 4, env.render)  # type: ignore[arg-type]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        steps = [self._env.step(action) for _ in range(2)]
        ended = bool(steps[-1][2] or steps[-1][3])
        return self._picture(), sum(float(step[1]) for step in steps), False, ended, {}


def sides(name: str, size: int) -> tuple[dict[str, Callable[[], float]], Callable[[], None]]:
    """(frames a second of each side, what closes them)."""
    suite, task = parse_name(name)
    kind = {"dmc": DmControl, "metaworld": MetaWorld}[suite]
    peer = AsyncVectorEnv([functools.partial(kind, task)] * size, context="spawn")
    frames, _ = peer.reset()
    assert frames.shape == (size, _SIDE, _SIDE, 3)
    assert frames.std() > 1
    ours = {rendering: make(name, size, 0, rendering=rendering) for rendering in ("fast", "stock")}
    rng = np.random.default_rng(0)
    actions = spec(name).actions
    for env in ours.values():
        assert env.reset().shape == (size, 3, _SIDE, _SIDE)

    def rate(step: Callable[[np.ndarray], object]) -> float:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < _MIN_S or steps < 3:
            step(actions.draw(rng, size))
            steps += 1
        return steps * size / (time.perf_counter() - start)

    def close() -> None:
        peer.close()
        for env in ours.values():
            env.close()

    rates: dict[str, Callable[[], float]] = {"AsyncVectorEnv": functools.partial(rate, peer.step)}
    rates |= {f"ours, {how}": functools.partial(rate, env.step) for how, env in ours.items()}
    return rates, close


def main(tasks: list[str], sizes: list[int]) -> None:
    """Prints and stores a row for each task and number of environments."""
    rows: list[Row] = []
    print("| task | environments | AsyncVectorEnv | ours, fast | ours, stock | fast / AsyncVectorEnv |")
    print("|---|---|---|---|---|---|")
    for name in tasks:
        for size in sizes:
            timed, close = sides(name, size)
            rates: dict[str, list[float]] = {side: [] for side in timed}
            for _ in range(_ROUNDS):
                for side, measure in timed.items():
                    rates[side].append(measure())
            close()
            medians = {side: statistics.median(values) for side, values in rates.items()}
            pairs = zip(rates["ours, fast"], rates["AsyncVectorEnv"], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            rows.append({"env": name, "num_envs": size, "frames_per_s": medians, "ratio": ratio, "rounds": _ROUNDS})
            shown = " | ".join(f"{medians[side]:.0f}" for side in ("AsyncVectorEnv", "ours, fast", "ours, stock"))
            print(f"| {name} | {size} | {shown} | {ratio:.1f}x |", flush=True)
    write(RESULTS / "env_speed.jsonl", rows, lambda row: (row["env"], row["num_envs"]), torch.device("cpu"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(_TASKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(_SIZES))
    arguments = parser.parse_args()
    main(arguments.tasks, arguments.sizes)
