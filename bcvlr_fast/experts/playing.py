"""Experts that are networks and play Procgen from its frames: as many episodes as are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.envs import PROCGEN_GAMES, parse_name
from bcvlr_fast.envs.procgen import Procgen
from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.experts.expert import WEIGHTS_SUFFIX, ExpertEpisode
from bcvlr_fast.system.errors import UserError

_RECORDING_SEED = 2**31 - 2**16
"""Seed of the environments that are recorded; those of runs and evaluations have smaller seeds."""
_MAX_ENVS = 32
_EPISODE_FRAMES = 200
"""Approximate length of an episode; a recording of few frames needs few environments."""


@dataclass(frozen=True)
class PlayingExpert:
    """An `Expert` that plays levels of the full distribution of a Procgen game from its frames."""

    env: str
    name: str
    act: Callable[[np.ndarray], np.ndarray]
    """Actions [B] for frames [B, C, H, W] uint8."""
    total_frames = None

    @property
    def source(self) -> str:
        return f"network {self.name}"

    def episodes(self, frames: int, steps: int, rendering: Rendering) -> Iterator[ExpertEpisode]:  # noqa: ARG002
        """Plays whole episodes and yields at least `frames` frames.

        It begins episodes until all that it began have as many frames, and then ends them: it would otherwise record
        too few of the long ones.
        """
        env = Procgen(parse_name(self.env)[1], min(max(1, frames // _EPISODE_FRAMES), _MAX_ENVS), _RECORDING_SEED)
        try:
            now = env.reset()
            seen: list[list[np.ndarray]] = [[frame] for frame in now]
            taken: list[list[int]] = [[] for _ in now]
            playing, recorded = np.arange(env.num_envs), env.num_envs
            while len(playing):
                actions, level = self.act(now[playing]), env.level.copy()
                step = env.step(actions, playing)
                now[playing] = step.next_frames()
                for n, action, frame in zip(playing.tolist(), actions, step.frames, strict=True):
                    if not steps or len(taken[n]) < steps:
                        taken[n].append(int(action))
                        seen[n].append(frame)
                        recorded += 1
                for episode in env.pop_episodes():
                    n = episode.env
                    yield ExpertEpisode(np.stack(seen[n]), np.array(taken[n], np.uint8), episode.score, int(level[n]))
                    seen[n], taken[n] = [now[n]], []
                    recorded += 1
                if recorded >= frames:
                    playing = playing[~step.ended]
        finally:
            env.close()


def bundled(env: str) -> PlayingExpert:
    """The bundled network of a Procgen game. Raises UserError if there is none."""
    _, game = parse_name(env)
    if game not in available():
        raise UserError(f"videos: no network is bundled for {env} (bundled: {', '.join(available())})")
    with as_file(_file(game)) as file:
        return from_file(file, env)


def from_file(file: Path, env: str) -> PlayingExpert:
    """An expert from its weights. Raises UserError if the file is invalid or of another environment."""
    from bcvlr_fast.experts.network import act_greedily, load_network
    from bcvlr_fast.training.compute import choose_compute, choose_device

    network, _, card = load_network(file)
    if card.get("env") != env:
        raise UserError(f"expert: {file}: of {card.get('env')}, expected {env}")
    compute = choose_compute(choose_device("auto"), "auto")
    compute.network(network)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return PlayingExpert(env, digest, lambda frames: act_greedily(network, frames, compute))


def available() -> tuple[str, ...]:
    """The Procgen games that have a bundled network."""
    return tuple(game for game in PROCGEN_GAMES if _file(game).is_file())


def card(game: str) -> dict[str, Any]:
    """The card of a bundled network: teacher, settings, learning curve and return."""
    from bcvlr_fast.experts.weights import load_weights

    with as_file(_file(game)) as file:
        return load_weights(file)[1]


def _file(game: str) -> Any:
    return files("bcvlr_fast.experts") / "procgen" / f"{game}{WEIGHTS_SUFFIX}"
