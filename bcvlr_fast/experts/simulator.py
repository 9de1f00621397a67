"""Procgen's original simulator: steps many copies of a game without drawing them, and saves and restores their states.

It is the C library of the package procgen-mirror (openai/procgen 0.10.7, MIT license), called through its C interface,
which needs neither gym3 nor the old numpy that the package requires. It brings its own Qt, whose painter
csrc/no_painter.c replaces, so it needs a process without EnvPool: planners run in workers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcvlr_fast.envs.procgen import NUM_ACTIONS
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder

PACKAGE = "procgen-mirror==0.10.7"
PAINTER = Path(__file__).with_name("_no_painter.so")
"""Built from csrc/no_painter.c. It is missing if there was no compiler at installation; the simulator then draws, which
makes it two to four times slower."""
LEFT, LEFT_UP, DOWN, IDLE, UP, RIGHT, RIGHT_UP, FIRE = 1, 2, 3, 4, 5, 7, 8, 9
"""Procgen's actions; 10 to 12 are further special actions."""
_MAX_STATE_BYTES = 1 << 20
_OPTIONS: dict[str, int] = {
    "num_actions": NUM_ACTIONS,
    "use_sequential_levels": False,
    "debug_mode": 0,
    "num_threads": 0,
    "render_human": False,
    "distribution_mode": 0,  # easy
    "center_agent": True,
    "use_backgrounds": True,
    "use_generated_assets": False,
    "use_monochrome_assets": False,
    "restrict_themes": False,
    "paint_vel_info": False,
}


def folder() -> Path | None:
    """Folder of the simulator's package: $BCVLR_FAST_SIMULATOR, the cache or this environment; None if missing."""
    candidates = [Path(os.environ["BCVLR_FAST_SIMULATOR"])] if "BCVLR_FAST_SIMULATOR" in os.environ else []
    candidates.append(install_folder())
    if (spec := importlib.util.find_spec("procgen")) and spec.origin:
        candidates.append(Path(spec.origin).parents[1])
    return next((path for path in candidates if _library_file(path).is_file()), None)


def install_folder() -> Path:
    """Folder in the cache for the simulator's package."""
    return cache_folder() / PACKAGE.replace("==", "-")


def install_command() -> list[str]:
    """Arguments of pip that install the simulator into the cache. Its library works with every Python 3."""
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--target", str(install_folder())]
    return ["install", *options, PACKAGE]


def check_installed() -> None:
    """Raises UserError with the command that installs the simulator if it is missing."""
    if folder() is None:
        raise UserError(
            f"planner: Procgen's simulator is not installed (run: python -m pip {' '.join(install_command())})"
        )


class Simulator:
    """`num` copies of a Procgen game (easy), all on one level until `restore` gives them another state.

    After an episode ends, the same level starts again. Without a level, every copy plays levels drawn by `seed` from
    the full distribution. Nothing is drawn unless `draws`, which must be the same throughout a process.
    """

    def __init__(self, game: str, num: int, level: int | None, *, seed: int = 0, draws: bool = False) -> None:
        self.num = num
        self._library = _load(draws)
        resources = str(_data_folder(_installed()) / "assets") + os.sep
        levels = {"num_levels": 0, "start_level": 0} if level is None else {"num_levels": 1, "start_level": level}
        values: dict[str, str | int] = {"env_name": game, "resource_root": resources, **_OPTIONS, **levels}
        values["rand_seed"] = seed
        self._kept: list[object] = []
        options = (_Option * len(values))(*(self._option(name, value) for name, value in values.items()))
        self._handle = self._library.libenv_make(num, _Options(options, len(values)))
        frames = np.zeros((num, 64, 64, 3), np.uint8)
        self.frames = frames.transpose(0, 3, 1, 2)
        level_seed, complete, next_seed = np.zeros(num, np.int32), np.zeros(num, np.uint8), np.zeros(num, np.int32)
        self._reward, self._ended = np.zeros(num, np.float32), np.zeros(num, np.uint8)
        self._complete, self._actions = complete, np.zeros(num, np.int32)
        observations, info = _pointers(frames), _pointers(level_seed, complete, next_seed)
        actions = _pointers(self._actions)
        self._kept += [options, frames, level_seed, next_seed, observations, info, actions]
        buffers = _Buffers(observations, self._reward.ctypes.data, self._ended.ctypes.data, info, actions)
        self._library.libenv_set_buffers(self._handle, ctypes.byref(buffers))
        self._library.libenv_observe(self._handle)
        self._state = ctypes.create_string_buffer(_MAX_STATE_BYTES)

    def _option(self, name: str, value: str | int) -> _Option:
        if isinstance(value, str):
            data, kind = np.frombuffer(value.encode(), np.uint8).copy(), 1
        elif isinstance(value, bool):
            data, kind = np.array([value], np.uint8), 1
        else:
            data, kind = np.array([value], np.int32), 2
        self._kept.append(data)
        return _Option(name.encode(), kind, len(data), data.ctypes.data)

    def step(self, actions: np.ndarray | int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps every copy and returns (reward [num] float32, ended [num] bool, completed [num] bool).

        `completed` is whether the level was solved in this step. The arrays are valid until the next step.
        """
        self._actions[:] = actions
        self._library.libenv_act(self._handle)
        return self._reward, self._ended.view(bool), self._complete.view(bool)

    def view(self, copy: int = 0) -> View:
        """Contents of the present state of one copy."""
        size = self._library.get_state(self._handle, copy, self._state, _MAX_STATE_BYTES)
        return view(ctypes.string_at(self._state, size))

    def save(self, copy: int = 0) -> bytes:
        """Saves the state of one copy without the random generators of later levels, which are two thirds of it."""
        size = self._library.get_state(self._handle, copy, self._state, _MAX_STATE_BYTES)
        return _without_level_generators(ctypes.string_at(self._state, size))

    def restore(self, state: bytes, copy: int) -> None:
        """Restores a saved state into one copy."""
        self._library.set_state(self._handle, copy, state, len(state))

    def close(self) -> None:
        self._library.libenv_close(self._handle)


_NAME_AT = 4  # after the version


def _without_level_generators(state: bytes) -> bytes:
    """Empties the texts of the first and third Mersenne twister; restoring an empty text keeps a generator as it is."""
    first = _after_header(state)
    third = _after_entities(state, _after_generators(state))
    second = first + 8 + _int(state, first + 4)
    end = third + 8 + _int(state, third + 4)
    empty = b"\0\0\0\0"
    return empty.join((state[: first + 4], state[second : third + 4], state[end:]))


@dataclass(frozen=True)
class View:
    """Contents of a saved state that planners use. Units are cells of the level's grid; y points up."""

    entities: np.ndarray
    """[E, 31] float32: x, y, vx, vy, rx, ry, then integers, which `kinds` and `themes` read; row 0 is the agent."""
    grid: np.ndarray
    """[height, width] int32: object numbers of the cells."""
    rest: bytes
    """Fields that the game itself adds."""

    @property
    def kinds(self) -> np.ndarray:
        """[E] int32: object numbers of the entities."""
        return self.entities.view(np.int32)[:, 6]

    @property
    def themes(self) -> np.ndarray:
        """[E] int32: themes of the entities, such as the color of a key."""
        return self.entities.view(np.int32)[:, 8]


_ENTITY_FIELDS = 31
_HEADER_INTS = 17
_AFTER_GENERATOR_BYTES = 4 * 16  # reward .. is_waiting_for_step, then the grid's size
_BEFORE_ASSET_GENERATOR_BYTES = 4 * 19
_BEFORE_GRID_BYTES = 4 * 9


def view(state: bytes) -> View:
    """Reads a state that `Simulator.save` returned."""
    offset = _after_generators(state)
    count = _int(state, offset)
    entities = np.frombuffer(state, np.float32, count * _ENTITY_FIELDS, offset + 4).reshape(count, _ENTITY_FIELDS)
    offset = _after_entities(state, offset)
    offset += 8 + _int(state, offset + 4) + _BEFORE_GRID_BYTES
    width, height, size = struct.unpack_from("<3i", state, offset)
    grid = np.frombuffer(state, np.int32, size, offset + 12).reshape(height, width)
    return View(entities, grid, state[offset + 12 + 4 * size :])


def _after_header(state: bytes) -> int:
    """Offset of the generator of levels."""
    return _NAME_AT + 4 + _int(state, _NAME_AT) + 4 * _HEADER_INTS


def _after_generators(state: bytes) -> int:
    """Offset of the number of entities, after the generators of levels and of the game, each a flag and a text."""
    offset = _after_header(state)
    for _ in range(2):
        offset += 8 + _int(state, offset + 4)
    return offset + _AFTER_GENERATOR_BYTES


def _after_entities(state: bytes, offset: int) -> int:
    """Offset of the generator of assets, for the offset of the number of entities."""
    return offset + 4 + 4 * _ENTITY_FIELDS * _int(state, offset) + _BEFORE_ASSET_GENERATOR_BYTES


def _int(state: bytes, offset: int) -> int:
    return int(struct.unpack_from("<i", state, offset)[0])


class _Option(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 128),
        ("kind", ctypes.c_int),
        ("count", ctypes.c_int),
        ("data", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (("items", ctypes.POINTER(_Option)), ("count", ctypes.c_int))


class _Buffers(ctypes.Structure):
    _fields_ = (
        ("observations", ctypes.POINTER(ctypes.c_void_p)),
        ("reward", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("info", ctypes.POINTER(ctypes.c_void_p)),
        ("actions", ctypes.POINTER(ctypes.c_void_p)),
    )


def _pointers(*arrays: np.ndarray) -> ctypes.Array[ctypes.c_void_p]:
    """Pointers to each row of each array."""
    rows = [array.ctypes.data + i * array.strides[0] for array in arrays for i in range(len(array))]
    return (ctypes.c_void_p * len(rows))(*rows)


def _data_folder(package: Path) -> Path:
    return package / "procgen" / "data"


def _library_file(package: Path) -> Path:
    return _data_folder(package) / "prebuilt" / "libenv.so"


def _installed() -> Path:
    check_installed()
    found = folder()
    assert found is not None
    return found


@functools.cache
def _load(draws: bool) -> ctypes.CDLL:
    if "envpool" in sys.modules:
        raise RuntimeError("the simulator and EnvPool bring different Qt libraries: one process cannot have both")
    if PAINTER.exists() and not draws:
        ctypes.CDLL(str(PAINTER), mode=ctypes.RTLD_GLOBAL)
    try:
        library = ctypes.CDLL(str(_library_file(_installed())))
    except OSError as error:
        raise UserError(
            f"planner: the simulator does not load: {error} (apt-get install libgl1 libglib2.0-0)"
        ) from None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.libenv_make.restype = pointer
    library.libenv_make.argtypes = [number, _Options]
    library.libenv_set_buffers.argtypes = [pointer, ctypes.POINTER(_Buffers)]
    for name in ("libenv_act", "libenv_observe", "libenv_close"):
        getattr(library, name).argtypes = [pointer]
    library.get_state.argtypes = [pointer, number, ctypes.c_char_p, number]
    library.set_state.argtypes = [pointer, number, ctypes.c_char_p, number]
    return library
