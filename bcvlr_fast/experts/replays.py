"""Expert replays: levels and actions, from which a deterministic game gives back every frame."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from bcvlr_fast.envs.names import PROCGEN_GAMES
from bcvlr_fast.errors import UserError
from bcvlr_fast.files import write_whole


def _no_levels() -> np.ndarray:
    return np.empty(0, np.int32)


@dataclass(frozen=True)
class Replays:
    """E episodes: `level` [E] int32, `length` [E] int32 steps, `episode_return` [E] float32, and
    `actions` uint8 [sum(length)], one episode after another; `dropped` [D] int32 levels that the
    expert gave up on, and whose episodes are not here."""

    level: np.ndarray
    length: np.ndarray
    actions: np.ndarray
    episode_return: np.ndarray
    dropped: np.ndarray = field(default_factory=_no_levels)

    def episode_actions(self, episode: int) -> np.ndarray:
        """Actions of one episode, uint8 [length[episode]]."""
        end = int(self.length[: episode + 1].sum())
        return self.actions[end - int(self.length[episode]) : end]

    @property
    def frames(self) -> int:
        """Frames of the video: one more than steps in every episode."""
        return int(self.length.sum()) + len(self.length)

    @property
    def change_rate(self) -> float:
        """Share of the steps whose action differs from the one before."""
        changes = np.diff(self.actions) != 0
        changes[self.length.cumsum()[:-1] - 1] = False  # from one episode to the next
        return float(changes.sum() / max(1, len(self.actions) - len(self.length)))

    def save(self, file: Path) -> None:
        """Writes an npz that appears whole."""
        write_whole(file, lambda part: np.savez_compressed(part, **asdict(self)))


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
    with as_file(files("bcvlr_fast.experts") / "procgen" / f"{game}.npz") as file:
        return load_file(file)


def is_replays(path: Path) -> bool:
    """Whether the path is a file of replays, by the names of its arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"level.npy", "length.npy", "actions.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def load_file(file: Path) -> Replays:
    """Replays that `Replays.save` wrote. Raises UserError where the file is not such."""
    try:
        with np.load(file, allow_pickle=False) as data:
            replays = Replays(**{name: data[name] for name in data.files})
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"replays: {file}: not expert replays ({error})") from None
    episodes = (len(replays.level), len(replays.length), len(replays.episode_return))
    if len(set(episodes)) != 1 or replays.length.sum() != len(replays.actions) or (replays.length < 1).any():
        found = f"{episodes} levels, lengths and returns for {len(replays.actions)} actions"
        raise UserError(f"replays: {file}: {found} do not fit")
    return replays
