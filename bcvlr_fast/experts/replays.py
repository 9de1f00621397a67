"""Bundled expert replays: levels and actions, from which a deterministic game gives back every frame."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files

import numpy as np

from bcvlr_fast.envs.names import PROCGEN_GAMES
from bcvlr_fast.errors import UserError


@dataclass(frozen=True)
class Replays:
    """E episodes: `level` [E] int32, `length` [E] int32 steps, `episode_return` [E] float32, and
    `actions` uint8 [sum(length)], one episode after another."""

    level: np.ndarray
    length: np.ndarray
    actions: np.ndarray
    episode_return: np.ndarray

    def episode_actions(self, episode: int) -> np.ndarray:
        """Actions of one episode, uint8 [length[episode]]."""
        end = int(self.length[: episode + 1].sum())
        return self.actions[end - int(self.length[episode]) : end]


def available() -> tuple[str, ...]:
    """The Procgen games that have bundled replays."""
    folder = files("bcvlr_fast.experts") / "procgen"
    return tuple(game for game in PROCGEN_GAMES if (folder / f"{game}.npz").is_file())


def load(game: str) -> Replays:
    """The bundled replays of a Procgen game. Raises UserError where there are none."""
    if game not in available():
        raise UserError(
            f"videos: no expert replays are bundled for procgen:{game} "
            f"(give --videos PATH with an expert's videos; bundled: {', '.join(available())})"
        )
    with as_file(files("bcvlr_fast.experts") / "procgen" / f"{game}.npz") as file, np.load(file) as data:
        return Replays(data["level"], data["length"], data["actions"], data["episode_return"])
