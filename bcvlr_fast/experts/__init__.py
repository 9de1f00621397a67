"""Experts that play for the camera.

`EXPERTS` lists their kinds: networks and replays of Procgen, networks of DMControl, and scripted policies of MetaWorld.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bcvlr_fast.envs import SUITES, parse_name
from bcvlr_fast.experts import playing, replaying, scripted, trained
from bcvlr_fast.experts.expert import Expert, ExpertEpisode
from bcvlr_fast.system.errors import UserError


class ExpertKind(NamedTuple):
    """A kind of expert."""

    bundled: Callable[[str], Expert]
    """The bundled expert of an environment. Raises UserError if there is none."""
    from_file: Callable[[Path, str], Expert]
    """The expert of an environment from a file. Raises UserError if the file is invalid or of another environment."""
    owns: Callable[[Path], bool] = lambda _: False
    """Whether a file looks like one of this kind."""


def _bundled_of_procgen(env: str) -> Expert:
    """The network of a game, or its replays where no network is bundled."""
    return (playing if parse_name(env)[1] in playing.available() else replaying).bundled(env)


def _procgen_from_file(file: Path, env: str) -> Expert:
    return (playing if trained.is_weights(file) else replaying).from_file(file, env)


EXPERTS: dict[str, ExpertKind] = {
    "procgen": ExpertKind(
        _bundled_of_procgen,
        _procgen_from_file,
        lambda file: trained.is_weights(file) or replaying.is_replays(file),
    ),
    "trained": ExpertKind(trained.bundled, trained.from_file, trained.is_weights),
    "scripted": ExpertKind(scripted.bundled, trained.from_file),
}


def find_expert(env: str, file: Path | None = None) -> Expert:
    """The bundled expert of an environment, or the one of a file of replays or weights.

    Raises UserError if no expert is bundled, or the file is invalid or of another environment.
    """
    suite, _ = parse_name(env)
    kind = EXPERTS.get(SUITES[suite].expert)
    if file is not None:
        owners = [each for each in (kind, *EXPERTS.values()) if each and each.owns(file)]
        return (owners[0] if owners else kind or EXPERTS["trained"]).from_file(file, env)
    if kind is None:
        raise UserError(f"videos: no expert is bundled for {env} (give --videos PATH with videos of an expert)")
    return kind.bundled(env)


def is_expert_file(path: Path) -> bool:
    """Whether a path is a file of replays or weights, which `find_expert` takes."""
    return any(kind.owns(path) for kind in EXPERTS.values())


__all__ = ["EXPERTS", "Expert", "ExpertEpisode", "ExpertKind", "find_expert", "is_expert_file"]
