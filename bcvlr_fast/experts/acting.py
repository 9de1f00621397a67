"""Experts that act on the states of a MuJoCo environment, and the episodes that they play."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bcvlr_fast.envs import make
from bcvlr_fast.envs.simulated import Simulated
from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.experts.expert import ExpertEpisode
from bcvlr_fast.videos.labels import NO_LEVEL

RECORDING_SEED = 2**31
"""Seed of the environments that experts play in; those of runs and evaluations have smaller seeds."""
STEPS_AFTER_SUCCESS = 20
"""Steps recorded after success, in suites that know success: later frames show an expert that has finished."""
_MAX_ENVS = 10
"""Maximum number of environments that play at once; independent of the machine, so that recordings are too."""
_EPISODE_FRAMES = 500
"""Approximate length of an episode; a recording of few frames needs few environments."""


class ActOnStates(Protocol):
    """Actions [k, A] float32 in -1..1 for states [k, S] float32."""

    def __call__(self, states: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class ActingExpert:
    """An `Expert` that plays anew, from the environment's states."""

    env: str
    name: str
    act: ActOnStates
    total_frames = None
    extends = False

    @property
    def source(self) -> str:
        return f"expert {self.name}"

    def episodes(self, frames: int, steps: int, rendering: Rendering) -> Iterator[ExpertEpisode]:
        """Plays whole episodes, in suites with success up to 20 steps after it, and yields at least `frames` frames."""
        env = make(self.env, recording_envs(frames), RECORDING_SEED, rendering=rendering)
        assert isinstance(env, Simulated)
        try:
            first = env.reset()
            seen: list[list[np.ndarray]] = [[frame] for frame in first]
            taken: list[list[np.ndarray]] = [[] for _ in first]
            steps_left = np.full(env.num_envs, np.inf)
            while frames > 0:
                actions = self.act(env.states)
                filmed = np.array([not steps or len(each) < steps for each in taken])
                step = env.step(actions, drawn=filmed)
                for n in range(env.num_envs):
                    if filmed[n]:
                        seen[n].append(step.frames[n])
                        taken[n].append(actions[n])
                score = {episode.env: episode.score for episode in env.pop_episodes()}
                following = dict(zip(np.flatnonzero(step.ended), step.first_frames, strict=True))
                steps_left -= 1
                steps_left[env.last_success] = np.minimum(steps_left[env.last_success], STEPS_AFTER_SUCCESS)
                if len(cut := np.flatnonzero((steps_left <= 0) & ~step.ended)):
                    score |= dict.fromkeys(cut, 1.0)
                    following |= zip(cut, env.reset(cut), strict=True)
                for n in sorted(score):
                    if frames > 0:
                        yield ExpertEpisode(np.stack(seen[n]), np.stack(taken[n]), score[n], NO_LEVEL)
                    frames -= len(seen[n])
                    seen[n], taken[n], steps_left[n] = [following[n]], [], np.inf
        finally:
            env.close()


def recording_envs(frames: int) -> int:
    """Number of environments in which an expert plays to record `frames` frames."""
    return min(max(1, frames // _EPISODE_FRAMES), _MAX_ENVS)
