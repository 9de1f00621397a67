"""Gymnasium environments whose pixels show their steps and actions. Importing this module registers them."""

import os
import random
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete


class Colors(gymnasium.Env):
    """Red is 10 times the step, green is random at reset, blue and reward are the action; ends after 5 steps."""

    observation_space = Box(0, 255, (64, 64, 3), np.uint8)
    action_space = Discrete(3, start=5)
    metadata = {"render_modes": [], "render_fps": 12}  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed, options=options)
        self.steps, self.green = 0, int(self.np_random.integers(256))
        return self.picture(0), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.steps += 1
        return self.picture(action), float(action), self.steps == 5, False, {}

    def picture(self, action: int) -> np.ndarray:
        return np.full((64, 64, 3), (10 * self.steps, self.green, action), np.uint8)


class Dot(gymnasium.Env):
    """Renders gray frames: one half shows the first action value, the other the second. Truncates after 3 steps."""

    observation_space = Box(-1, 1, (2,))
    action_space = Box(np.array([-2, 0], np.float32), np.array([2, 200], np.float32))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 0}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed, options=options)
        self.drawn = np.full((100, 60), random.randrange(256), np.uint8)  # from the global random state of the process
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.drawn[:50], self.drawn[50:] = 100 + 10 * action[0], action[1]
        self.steps += 1
        return np.zeros(2, np.float32), 0.5, False, self.steps == 3, {}

    def render(self) -> np.ndarray | None:
        return self.drawn if self.render_mode == "rgb_array" else None


class Fragile(Colors):
    """Action 6 raises an exception that cannot be pickled; action 7 kills the process."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if action == 6:
            raise type("Own", (Exception,), {})("the 100% bug", lambda: 0)
        if action == 7:
            os._exit(9)
        return super().step(action)


class Planes(Colors):
    """`Colors` with channels first."""

    observation_space = Box(0, 255, (3, 64, 64), np.uint8)

    def picture(self, action: int) -> np.ndarray:
        return np.stack([np.full((64, 64), value, np.uint8) for value in (10 * self.steps, self.green, action)])


class Silent(Dot):
    """An environment that cannot render."""

    def __init__(self) -> None:
        super().__init__(None)


class TwoKnobs(Colors):
    action_space = MultiDiscrete([2, 2])


class Unbounded(Dot):
    action_space = Box(-np.inf, np.inf, (2,))


class NeedsPackage(Colors):
    def __init__(self) -> None:
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed,\nrun `pip install box2d`")


def colors(steps: int = 5) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(Colors(), steps)


def needs(steps: int) -> gymnasium.Env:
    return colors(steps)


def fragile() -> Fragile:
    return Fragile()


def planes() -> Planes:
    return Planes()


def dot() -> Dot:
    return Dot("rgb_array")


def not_an_env() -> str:
    return "Colors"


for kind in (Colors, Dot, Silent, TwoKnobs, Unbounded, NeedsPackage):
    gymnasium.register(f"small/{kind.__name__}-v0", kind)
