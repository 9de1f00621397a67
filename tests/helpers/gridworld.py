"""A gridworld with pixels for Gymnasium, which a minute of training solves, and its optimal expert."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from bcvlr_fast.videos import DatasetWriter, Manifest
from bcvlr_fast.videos.labels import NO_ACTION, NO_LEVEL, EvaluationLabels

ENV = "factory:helpers.gridworld:make"
"""The environment's name on a command line, with `tests` on the path."""
CELL_PIXELS = 8
CELLS = 6
"""Cells per side of the room, without its walls."""
MIN_DISTANCE = 4
MAX_STEPS = 12
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
"""(rows, columns) of each action: up, down, left, right."""
FLOOR, WALL, AGENT, GOAL = (30, 30, 30), (110, 110, 110), (40, 220, 60), (230, 50, 40)


class Gridworld(gymnasium.Env):
    """A room in which the agent walks to a goal at least `MIN_DISTANCE` steps away; walls stop it.

    An episode ends at the goal with a reward of 1, or after `MAX_STEPS`, which are too few for a random walk.
    """

    observation_space = Box(0, 255, (64, 64, 3), np.uint8)
    action_space = Discrete(len(MOVES))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Draws the places of agent and goal."""
        super().reset(seed=seed, options=options)
        self.steps = 0
        self.agent = self.goal = np.zeros(2, np.int64)
        while np.abs(self.goal - self.agent).sum() < MIN_DISTANCE:
            self.agent, self.goal = self.np_random.integers(CELLS, size=(2, 2))
        return self.picture(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Moves the agent by one cell, unless a wall is there."""
        self.steps += 1
        self.agent = np.clip(self.agent + MOVES[action], 0, CELLS - 1)
        reached = bool((self.agent == self.goal).all())
        return self.picture(), float(reached), reached, self.steps == MAX_STEPS, {}

    def picture(self) -> np.ndarray:
        """[64, 64, 3] uint8: the agent covers the goal."""
        cells = np.full((CELLS + 2, CELLS + 2, 3), WALL, np.uint8)
        cells[1:-1, 1:-1] = FLOOR
        cells[tuple(self.goal + 1)] = GOAL
        cells[tuple(self.agent + 1)] = AGENT
        return cells.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)

    def best_action(self) -> int:
        """A step of a shortest path to the goal, drawn where there are two: the picture does not determine it."""
        distances = [np.abs(self.goal - self.agent - move).sum() for move in MOVES]
        return int(self.np_random.choice(np.flatnonzero(distances == min(distances))))


def make() -> Gridworld:
    """Makes the environment, for `--env factory:helpers.gridworld:make`."""
    return Gridworld()


def write_expert_videos(folder: Path, episodes: int, seed: int = 0) -> None:
    """Writes a dataset of optimal episodes with labels."""
    env = Gridworld()
    writer = DatasetWriter(folder, (3, 64, 64))
    actions: list[int] = []
    lengths: list[int] = []
    for episode in range(episodes):
        frames, ended = [env.reset(seed=seed if episode == 0 else None)[0]], False
        while not ended:
            actions.append(env.best_action())
            picture, _, ended, _, _ = env.step(actions[-1])
            frames.append(picture)
        actions.append(NO_ACTION)
        lengths.append(len(frames))
        writer.append(np.stack(frames).transpose(0, 3, 1, 2))
    returns, levels = np.ones(episodes, np.float32), np.full(episodes, NO_LEVEL, np.int32)
    EvaluationLabels(np.array(actions, np.uint8), returns, levels).save(writer.work)
    writer.commit(Manifest(ENV, "optimal walks", lengths, [3, 64, 64]))
