"""Experts that are networks and play Procgen from its frames: as many episodes as are asked for, on all cores."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bcvlr_fast.envs import PROCGEN_GAMES, parse_name
from bcvlr_fast.envs.procgen import Procgen
from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.experts.expert import WEIGHTS_SUFFIX, ExpertEpisode
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.workers import worker_pool

if TYPE_CHECKING:
    from bcvlr_fast.experts.network import ActorCritic, NetworkConfig

Act = Callable[[np.ndarray], np.ndarray]
"""Frames [B, C, H, W] uint8 -> actions [B]."""

_RECORDING_SEED = 2**31 - 2**16
"""Seed of the environments that are recorded; those of runs and evaluations have smaller seeds."""
_GROUPS, _ENVS_IN_GROUP = 4, 8
"""Independent of the machine, so that recordings are too. A group is played in one process."""
_MIN_FRAMES_FOR_WORKERS = 10_000
"""Below this, processes take longer to start than to play."""
_FRAMES_TOGETHER = 1000
"""Frames that a worker plays at a time, at least."""


@dataclass(frozen=True)
class PlayingExpert:
    """An `Expert` that plays levels of the full distribution of a Procgen game from its frames."""

    env: str
    name: str
    act: Act
    network: ActorCritic | None = None
    """What acts, on the CPU: copies of it play in other processes. None plays in this one."""
    total_frames = None
    extends = True

    @property
    def source(self) -> str:
        return f"network {self.name}"

    def episodes(self, frames: int, steps: int, rendering: Rendering) -> Iterator[ExpertEpisode]:  # noqa: ARG002
        """Plays whole episodes until they have `frames` frames.

        The next one is always of the group that has the fewest frames so far, and within it the next that began: in the
        order in which they end, long episodes would be rarer than they are. Raises UserError if a worker dies.
        """
        workers = min(usable_cores(), _GROUPS) if frames >= _MIN_FRAMES_FOR_WORKERS else 1
        groups: list[Iterator[ExpertEpisode]]
        with contextlib.ExitStack() as stack:
            if self.network is None or workers == 1:
                here = (play(self.env, group, self.act, steps) for group in range(_GROUPS))
                groups = [stack.enter_context(contextlib.closing(each)) for each in here]
            else:
                weights = {name: value.numpy() for name, value in self.network.state_dict().items()}
                begin = functools.partial(_begin_worker, self.env, self.network.sizes, weights, steps)
                pools = [stack.enter_context(worker_pool(1, begin)) for _ in range(workers)]
                groups = [_played_ahead(pools[group % workers], group) for group in range(_GROUPS)]
            recorded = [0] * _GROUPS
            while sum(recorded) < frames:
                group = recorded.index(min(recorded))
                episode = next(groups[group])
                recorded[group] += len(episode.frames)
                yield episode


def play(env_name: str, group: int, act: Act, steps: int) -> Generator[ExpertEpisode, None, None]:
    """Plays the episodes of a group without end, in the order in which they began."""
    _, game = parse_name(env_name)
    env = Procgen(game, _ENVS_IN_GROUP, _RECORDING_SEED + group * _ENVS_IN_GROUP)
    with contextlib.closing(env):
        now = env.reset()
        playing = [_Playing(number, [frame], []) for number, frame in enumerate(now)]
        begun, following = env.num_envs, 0
        ended: dict[int, ExpertEpisode] = {}
        while True:
            actions, level = act(now), env.level.copy()
            step = env.step(actions)
            now = step.next_frames()
            for each, action, frame in zip(playing, actions, step.frames, strict=True):
                if not steps or len(each.actions) < steps:
                    each.actions.append(int(action))
                    each.frames.append(frame)
            for end in env.pop_episodes():
                each = playing[end.env]
                taken = np.array(each.actions, np.uint8)
                ended[each.number] = ExpertEpisode(np.stack(each.frames), taken, end.score, int(level[end.env]))
                playing[end.env] = _Playing(begun, [now[end.env]], [])
                begun += 1
            while following in ended:
                yield ended.pop(following)
                following += 1


class _Playing(NamedTuple):
    """An episode that is being played."""

    number: int
    """Counted from 0, in the order in which they began."""
    frames: list[np.ndarray]
    actions: list[int]


def _played_ahead(pool: ProcessPoolExecutor, group: int) -> Iterator[ExpertEpisode]:
    """The episodes of a group, which a worker plays from now on, some frames ahead."""
    first = pool.submit(_play_on, group)

    def episodes() -> Iterator[ExpertEpisode]:
        pending = first
        while True:
            following = pool.submit(_play_on, group)
            try:
                yield from pending.result()
            except BrokenProcessPool:
                raise UserError("videos: a worker that plays the expert died (is there memory for it?)") from None
            pending = following

    return episodes()


_playing: Callable[[int], Iterator[ExpertEpisode]]
"""In a worker: the episodes of a group, which it keeps from one call to the next."""


def _begin_worker(env_name: str, sizes: NetworkConfig, weights: dict[str, np.ndarray], steps: int) -> None:
    global _playing
    import torch

    from bcvlr_fast.experts.network import ActorCritic

    torch.set_num_threads(1)
    network = ActorCritic(sizes)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    act = _acting(network, "cpu")[0]
    _playing = functools.cache(lambda group: play(env_name, group, act, steps))


def _play_on(group: int) -> list[ExpertEpisode]:
    episodes: list[ExpertEpisode] = []
    while sum(len(episode.frames) for episode in episodes) < _FRAMES_TOGETHER:
        episodes += itertools.islice(_playing(group), 1)
    return episodes


def _acting(network: ActorCritic, device: str) -> tuple[Act, bool]:
    """(most probable actions of a network on a device, whether that is a CPU)."""
    from bcvlr_fast.experts.network import act_greedily
    from bcvlr_fast.training.compute import choose_compute, choose_device

    compute = choose_compute(choose_device(device), "auto")
    compute.network(network)
    return lambda frames: act_greedily(network, frames, compute), compute.device.type == "cpu"


def bundled(env: str) -> PlayingExpert:
    """The bundled network of a Procgen game. Raises UserError if there is none."""
    _, game = parse_name(env)
    if game not in available():
        raise UserError(f"videos: no network is bundled for {env} (bundled: {', '.join(available())})")
    with as_file(_file(game)) as file:
        return from_file(file, env)


def from_file(file: Path, env: str) -> PlayingExpert:
    """An expert from its weights. Raises UserError if the file is invalid or of another environment."""
    from bcvlr_fast.experts.network import digest, load_network

    network, _ = load_network(file, env)
    name = digest(network)
    act, on_cpu = _acting(network, "auto")
    return PlayingExpert(env, name, act, network if on_cpu else None)


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
