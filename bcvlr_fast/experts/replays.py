"""Expert replays of Procgen: levels and actions, from which the deterministic game reproduces every frame."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from bcvlr_fast.envs import PROCGEN_GAMES
from bcvlr_fast.envs.procgen import NUM_ACTIONS
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import NOT_NUMPY, free_bytes, write_whole


@dataclass(frozen=True)
class Replays:
    """E episodes of a Procgen game."""

    game: str
    level: np.ndarray
    """[E] int32."""
    length: np.ndarray
    """[E] int32: steps of each episode."""
    actions: np.ndarray
    """[sum(length)] uint8, one episode after another."""
    episode_return: np.ndarray
    """[E] float32."""
    dropped: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    """[D] int32: levels that the expert gave up on; they have no episode here."""

    @classmethod
    def none(cls, game: str) -> Replays:
        """Replays without episodes, to add to."""
        integers, actions = np.empty(0, np.int32), np.empty(0, np.uint8)
        return cls(game, integers, integers, actions, np.empty(0, np.float32))

    def part(self, first: int, last: int) -> Replays:
        """Replays with only the episodes first .. last - 1, or those of them that there are."""
        last = min(last, len(self.length))
        ends = np.concatenate([[0], self.length.cumsum()])
        rows = slice(first, last)
        actions = self.actions[ends[first] : ends[last]]
        return Replays(self.game, self.level[rows], self.length[rows], actions, self.episode_return[rows])

    def first(self, frames: int) -> Replays:
        """The first episodes that have at least `frames` frames, or all."""
        ends = (self.length + 1).cumsum()
        return self.part(0, int(np.searchsorted(ends, frames)) + 1)

    def episode_actions(self, episode: int) -> np.ndarray:
        """Actions [length[episode]] uint8 of one episode."""
        return self.part(episode, episode + 1).actions

    @property
    def digest(self) -> str:
        """Eight hex digits that identify the levels and actions."""
        return hashlib.sha256(self.level.tobytes() + self.actions.tobytes()).hexdigest()[:8]

    @property
    def frames(self) -> int:
        """Frames of a recording: one more than steps in every episode."""
        return int(self.length.sum()) + len(self.length)

    @property
    def change_rate(self) -> float:
        """Fraction of steps whose action differs from the previous one in the episode."""
        changes = np.diff(self.actions) != 0
        changes[self.length.cumsum()[:-1] - 1] = False  # not within an episode
        return float(changes.sum() / max(1, len(self.actions) - len(self.length)))

    def save(self, file: Path) -> None:
        """Writes an npz file atomically. Raises UserError if the disk is full."""
        try:
            write_whole(file, lambda part: np.savez_compressed(part, **asdict(self)))
        except OSError as error:
            raise UserError(f"replays: {file}: {error.strerror}; {free_bytes(file.parent):,} bytes are free") from None


def available() -> tuple[str, ...]:
    """The Procgen games that have bundled replays."""
    folder = files("bcvlr_fast.experts") / "procgen"
    return tuple(game for game in PROCGEN_GAMES if (folder / f"{game}.npz").is_file())


def load_bundled(game: str) -> Replays:
    """Loads the bundled replays of a Procgen game. Raises UserError if there are none."""
    if game not in available():
        raise UserError(
            f"videos: no expert replays are bundled for procgen:{game} "
            f"(give --videos PATH with videos of an expert; bundled: {', '.join(available())})"
        )
    with as_file(files("bcvlr_fast.experts") / "procgen" / f"{game}.npz") as file:
        return load_replays(file, game)


def is_replays(path: Path) -> bool:
    """Whether a path is a file of replays, judged by the names of its arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"level.npy", "length.npy", "actions.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def load_replays(file: Path, game: str | None = None) -> Replays:
    """Loads a file that `Replays.save` wrote. Raises UserError if it is invalid or of another game than `game`."""
    try:
        with np.load(file, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        replays = Replays(**{**arrays, "game": str(arrays["game"])})
    except (*NOT_NUMPY, KeyError, TypeError) as error:
        raise UserError(f"replays: {file}: not expert replays ({error})") from None
    if fault := _fault(replays):
        raise UserError(f"replays: {file}: {fault}")
    if game not in (None, replays.game):
        raise UserError(f"replays: {file}: of procgen:{replays.game}, expected procgen:{game}")
    return replays


def _fault(replays: Replays) -> str | None:
    """Describes the first invalid array, or returns None."""
    if replays.game not in PROCGEN_GAMES:
        return f"game: expected a Procgen game, found '{replays.game}'"
    for name in ("level", "length", "actions", "dropped"):
        array = getattr(replays, name)
        if array.ndim != 1 or array.dtype.kind not in "iu" or (len(array) and array.min() < 0):
            return f"{name}: expected whole numbers >= 0 in one dimension, found {array.dtype} {list(array.shape)}"
    episodes = (len(replays.level), len(replays.length), len(replays.episode_return))
    if len(set(episodes)) != 1 or replays.length.sum() != len(replays.actions) or (replays.length < 1).any():
        return f"{episodes} levels, lengths and returns do not match {len(replays.actions)} actions"
    if len(replays.actions) and replays.actions.max() >= NUM_ACTIONS:
        return f"actions: expected 0 .. {NUM_ACTIONS - 1}, found {replays.actions.max()}"
    if not len(replays.level):
        return "expected at least one episode, found none"
    return None
