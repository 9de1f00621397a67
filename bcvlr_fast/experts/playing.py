"""Experts that are networks and play Procgen from its frames: as many episodes as are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bcvlr_fast.envs import PROCGEN_GAMES, parse_name
from bcvlr_fast.envs.procgen import Procgen
from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.experts.expert import WEIGHTS_SUFFIX, ExpertEpisode
from bcvlr_fast.system.errors import UserError

_RECORDING_SEED = 2**31 - 2**16
"""Seed of the environments that are recorded; those of runs and evaluations have smaller seeds."""
_NUM_ENVS = 32
"""Independent of the machine, so that recordings are too."""


@dataclass(frozen=True)
class PlayingExpert:
    """An `Expert` that plays levels of the full distribution of a Procgen game from its frames."""

    env: str
    name: str
    logits: Callable[[np.ndarray], np.ndarray]
    """Logits [B, 15] of the actions for frames [B, C, H, W] uint8."""
    temperature: float
    """That of the softmax from which the actions are drawn; 0 takes the most probable ones."""
    total_frames = None
    extends = True

    @property
    def source(self) -> str:
        return f"network {self.name}"

    def episodes(self, frames: int, steps: int, rendering: Rendering) -> Iterator[ExpertEpisode]:  # noqa: ARG002
        """Plays whole episodes and yields them in the order in which they began, until they have `frames` frames.

        In the order in which they end, long episodes would be rarer than they are.
        """
        env = Procgen(parse_name(self.env)[1], _NUM_ENVS, _RECORDING_SEED)
        random = np.random.default_rng(_RECORDING_SEED)
        with contextlib.closing(env):
            now = env.reset()
            playing = [_Playing(number, [frame], []) for number, frame in enumerate(now)]
            begun, following, recorded = env.num_envs, 0, 0
            ended: dict[int, ExpertEpisode] = {}
            while recorded < frames:
                actions = sample_actions(self.logits(now), self.temperature, random)
                level = env.level.copy()
                step = env.step(actions)
                now = step.next_frames()
                for each, action, frame in zip(playing, actions, step.frames, strict=True):
                    if not steps or len(each.actions) < steps:
                        each.actions.append(int(action))
                        each.frames.append(frame.copy())  # a view would keep the frames of all environments
                for end in env.pop_episodes():
                    each = playing[end.env]
                    taken = np.array(each.actions, np.uint8)
                    ended[each.number] = ExpertEpisode(np.stack(each.frames), taken, end.score, int(level[end.env]))
                    playing[end.env] = _Playing(begun, [now[end.env].copy()], [])
                    begun += 1
                while following in ended and recorded < frames:
                    episode = ended.pop(following)
                    yield episode
                    recorded += len(episode.frames)
                    following += 1


class _Playing(NamedTuple):
    """An episode that is being played."""

    number: int
    """Counted from 0, in the order in which they began."""
    frames: list[np.ndarray]
    actions: list[int]


def sample_actions(logits: np.ndarray, temperature: float | np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Actions [B] int64 drawn from the softmax of logits [B, 15] / temperature, by the Gumbel-max trick; the most
    probable ones where the temperature, one or [B, 1], is 0."""
    actions: np.ndarray = (logits + temperature * random.gumbel(size=logits.shape)).argmax(axis=1)
    return actions


def bundled(env: str) -> PlayingExpert:
    """The bundled network of a Procgen game. Raises UserError if there is none."""
    _, game = parse_name(env)
    if game not in available():
        raise UserError(f"videos: no network is bundled for {env} (bundled: {', '.join(available())})")
    with as_file(_file(game)) as file:
        return from_file(file, env)


def from_file(file: Path, env: str) -> PlayingExpert:
    """An expert from its weights. Raises UserError if the file is invalid or of another environment."""
    from bcvlr_fast.experts.network import digest, load_network, logits_for
    from bcvlr_fast.training.compute import choose_compute, choose_device

    network, card = load_network(file, env)
    temperature = card["temperature"]
    name = digest(network) + (f"-t{temperature:g}" if temperature else "")
    compute = choose_compute(choose_device("auto"), "auto")
    compute.network(network)
    return PlayingExpert(env, name, lambda frames: logits_for(network, frames, compute), temperature)


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
