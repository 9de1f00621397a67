"""The models that EnvPool's MuJoCo suites load, as they are or changed to be drawn faster by a CPU.

Mesa's software renderer spends its time on triangles, not on 64 x 64 pixels: fast has coarser capsules, cylinders and
spheres, a smaller shadow map, and a robot of MetaWorld's of a seventh of the triangles; edges stay as smooth as they
were (bench/rendering.py has the numbers). Physics is the same to the bit: nothing that collides or has weight changes.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.host import DRAWN_BY, installed

_FORMAT = 2  # to be raised where the same setting comes to give other models, or films
_FOLDERS = {"dmc": Path("mujoco/assets_dmc"), "metaworld": Path("mujoco/metaworld")}
_ROBOT = Path("assets/objects/assets/xyz_base.xml")
_ROBOT_MESHES = Path("assets/objects/assets/xyz_base_dependencies.xml")


class Setting(NamedTuple):
    """How a suite's models are changed."""

    quality: tuple[tuple[str, int], ...] = ()
    """Attributes of MuJoCo's visual/quality."""
    reflections: bool = True
    cell_m: float | None = None
    """The robot's meshes are merged by cells of this size; None leaves them."""


SETTINGS = {
    "dmc": {
        "stock": Setting(),
        "fast": Setting((("shadowsize", 256), ("numslices", 12), ("numstacks", 6))),
    },
    "metaworld": {
        "stock": Setting(),
        "fast": Setting((("shadowsize", 512), ("numslices", 12), ("numstacks", 6)), reflections=False, cell_m=0.0125),
    },
}
"""By suite and by the name of the rendering. Nothing that MetaWorld's camera 0 sees is reflected."""


def asset_folder(suite: str, task: str, rendering: str) -> Path:
    """The folder that EnvPool is to load the task's models from: its own, or a changed copy, which is made once and
    kept in the cache. Raises UserError where it cannot be, or EnvPool's is missing."""
    package = importlib.util.find_spec("envpool_assets")
    if package is None or package.origin is None:
        raise UserError(f"env: {suite} needs the package 'envpool_assets' (extra [{suite}])")
    stock = Path(package.origin).parent
    setting, change = SETTINGS[suite][rendering], _CHANGES.get(task)
    if setting == Setting() and change is None:
        return stock
    made_from = (_FORMAT, installed("envpool_assets"), str(stock), setting, task if change else "")
    digest = hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
    folder = cache_folder() / "assets" / f"{suite}_{digest}"
    try:
        if not folder.is_dir():
            _make(stock, folder, suite, setting, change)
    except OSError as error:
        raise UserError(f"env: a copy of EnvPool's models cannot be kept in {folder.parent}: {error}") from None
    return folder


def drawing_digest(suite: str, rendering: str) -> str:
    """Changes with what pictures depend on, as far as it is known: the setting and the libraries' versions."""
    drawn_from = (_FORMAT, SETTINGS[suite][rendering], installed(*DRAWN_BY))
    return hashlib.sha256(repr(drawn_from).encode()).hexdigest()[:8]


def _make(stock: Path, folder: Path, suite: str, setting: Setting, change: Callable[[Path], None] | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as work:
        made = Path(work) / folder.name
        _copy(stock / _FOLDERS[suite], made / _FOLDERS[suite], setting)
        if change is not None:
            change(made / _FOLDERS[suite])
        if setting.cell_m is not None:
            _coarsen_robot(made / _FOLDERS[suite], setting.cell_m)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise


def _copy(source: Path, target: Path, setting: Setting) -> None:
    """Models are rewritten; meshes and textures, most of the size, are links."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        to = target / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".xml":
            to.symlink_to(file)
            continue
        model = ElementTree.parse(file)
        for quality in model.iter("quality"):
            quality.attrib.update({name: str(value) for name, value in setting.quality})
        for material in model.iter("material") if not setting.reflections else ():
            material.attrib.pop("reflectance", None)
        model.write(to)


def _turn_cheetah(folder: Path) -> None:
    """Half round about z, its ground too: to run forward is then to run to -x, as URLB's cheetah_run_backward pays."""
    file = folder / "cheetah.xml"
    model = ElementTree.parse(file)
    _only(model, ".//body[@name='torso']").set("quat", "0 0 0 1")
    _only(model, ".//geom[@name='ground']").attrib.update(pos="-98 0 0", quat="0 0 0 1", size="200 .8 .5")
    model.write(file)


def _hide_tip(folder: Path) -> None:
    """The spinner's tip, as dm_control does in this task; EnvPool clears another of its colour's numbers than alpha."""
    file = folder / "finger.xml"
    model = ElementTree.parse(file)
    _only(model, ".//site[@name='tip']").set("rgba", "0 0 0 0")
    model.write(file)


_CHANGES = {"cheetah_run_backward": _turn_cheetah, "finger_spin": _hide_tip}
"""What a task's model needs, in any rendering, to be the task that its name says."""


def _coarsen_robot(folder: Path, cell_m: float) -> None:
    """Draws a coarser mesh for each of the robot's; those that collide stay too, unseen."""
    robot, meshes = ElementTree.parse(folder / _ROBOT), ElementTree.parse(folder / _ROBOT_MESHES)
    colliding = set()
    for body in robot.findall(".//geom[@mesh]/.."):
        for geom in body.findall("geom[@mesh]"):
            if (geom.get("contype"), geom.get("conaffinity")) == ("0", "0"):
                continue
            colliding.add(geom.attrib["mesh"])
            drawn = copy.deepcopy(geom)
            drawn.attrib.update(mesh=geom.attrib["mesh"] + "_drawn", contype="0", conaffinity="0")
            body.append(drawn)
            geom.set("rgba", "0 0 0 0")
    for mesh in meshes.findall("asset/mesh"):
        drawn = copy.deepcopy(mesh) if mesh.attrib["name"] in colliding else mesh
        file = Path(mesh.attrib["file"])
        drawn.set("file", str(file.with_stem(file.stem + "_drawn")))
        if drawn is not mesh:
            drawn.set("name", mesh.attrib["name"] + "_drawn")
            _only(meshes, "asset").append(drawn)
        at = folder / "assets/sawyer_xyz"  # paths are relative to the model that includes
        _write_stl(at / drawn.attrib["file"], coarser(_read_stl(at / file), cell_m))
    robot.write(folder / _ROBOT)
    meshes.write(folder / _ROBOT_MESHES)


def coarser(corners: np.ndarray, cell_m: float) -> np.ndarray:
    """Triangles [m, 3, 3] of triangles [n, 3, 3] in metres: the corners in a cell of a grid become one, which lies
    where it is nearest to the planes of its triangles, by area (Lindstrom 2000, Out-of-core simplification)."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    corners, normal, area = corners[area > 0], normal[area > 0], area[area > 0]
    point, weight = corners.reshape(-1, 3), np.repeat(area, 3)[:, None]
    normal = np.repeat(normal, 3, axis=0) / weight
    cells, cell = np.unique(np.floor(point / cell_m).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.reshape(-1)

    def summed(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(cells), *values.shape[1:]))
        np.add.at(sums, cell, values)
        return sums

    total = summed(weight)
    middle = summed(weight * point) / total
    off_plane = np.sum(normal * (point - middle[cell]), axis=1, keepdims=True)
    planes = summed(weight[..., None] * normal[:, :, None] * normal[:, None, :])
    planes += 0.01 * total[..., None] * np.eye(3)  # where all its planes are alike, a corner stays in their middle
    shift = np.linalg.solve(planes, summed(weight * off_plane * normal)[..., None])[..., 0]
    merged = middle + shift.clip(-cell_m, cell_m)

    triangle = cell.reshape(-1, 3)
    triangle = triangle[(triangle != np.roll(triangle, 1, axis=1)).all(axis=1)]
    first = triangle.argmin(axis=1, keepdims=True)
    triangle = np.unique(np.take_along_axis(triangle, (first + np.arange(3)) % 3, axis=1), axis=0)
    return merged[triangle]


_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("unused", "<u2")])
_STL_HEADER_BYTES = 84


def _read_stl(file: Path) -> np.ndarray:
    return np.frombuffer(file.read_bytes(), _STL, offset=_STL_HEADER_BYTES)["corners"].astype(np.float64)


def _write_stl(file: Path, corners: np.ndarray) -> None:
    """MuJoCo computes normals itself."""
    triangles = np.zeros(len(corners), _STL)
    triangles["corners"] = corners
    count = len(corners).to_bytes(4, "little")
    file.write_bytes(count.rjust(_STL_HEADER_BYTES, b"\0") + triangles.tobytes())


def _only(model: ElementTree.ElementTree[ElementTree.Element], path: str) -> ElementTree.Element:
    (element,) = model.findall(path)
    return element
