"""The MuJoCo models that EnvPool loads, as they are or changed to be drawn faster by a CPU.

Mesa's software renderer spends its time on triangles, not on 64 x 64 pixels. The rendering "fast" has coarser capsules,
cylinders and spheres, a smaller shadow map, and a MetaWorld robot with a seventh of the triangles; edges stay as smooth
as they are in "stock" (bench/rendering.py measures it). Physics is identical to the bit: nothing that collides or has
mass changes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from bcvlr_fast.envs.specs import Rendering
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder
from bcvlr_fast.system.host import DRAWN_BY, installed

_FORMAT = 2  # raise it when the same setting starts to give other models or frames


class Setting(NamedTuple):
    """How a rendering changes a suite's models.

    Its repr is part of the names of cached models and recordings: renaming a field invalidates them.
    """

    quality: tuple[tuple[str, int], ...] = ()
    """Attributes of MuJoCo's visual/quality."""
    reflections: bool = True
    cell_m: float | None = None
    """Cell size of the grid that coarsens the robot's meshes; None leaves them as they are."""


@dataclass(frozen=True)
class Models:
    """The models of a suite and the settings of its renderings."""

    suite: str
    folder: Path
    """The suite's folder in the package envpool_assets."""
    settings: Mapping[Rendering, Setting]
    changes: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """Corrections by task, in every rendering, that make the model match the task's definition."""
    coarsen: Callable[[Path, float], None] | None = None
    """Coarsens meshes in a copy of `folder`, for settings with a `cell_m`."""


def asset_folder(models: Models, task: str, rendering: Rendering) -> Path:
    """Folder from which EnvPool loads the models of a task: its own, or a changed copy in the cache, made once.

    Raises UserError if EnvPool's models are missing or the copy cannot be written.
    """
    package = importlib.util.find_spec("envpool_assets")
    if package is None or package.origin is None:
        raise UserError(f"env: {models.suite} needs the package 'envpool_assets' (extra [{models.suite}])")
    stock = Path(package.origin).parent
    setting, change = models.settings[rendering], models.changes.get(task)
    if setting == Setting() and change is None:
        return stock
    made_from = (_FORMAT, installed("envpool_assets"), str(stock), setting, task if change else "")
    digest = hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
    folder = cache_folder() / "assets" / f"{models.suite}_{digest}"
    try:
        if not folder.is_dir():
            _make(stock, folder, models, setting, change)
    except OSError as error:
        raise UserError(f"env: cannot write a copy of EnvPool's models to {folder.parent}: {error}") from None
    return folder


def drawing_digest(models: Models, rendering: Rendering) -> str:
    """Eight hex digits that change with everything known to affect frames: the setting and library versions."""
    drawn_from = (_FORMAT, models.settings[rendering], installed(*DRAWN_BY))
    return hashlib.sha256(repr(drawn_from).encode()).hexdigest()[:8]


def only_element(model: ElementTree.ElementTree[ElementTree.Element], path: str) -> ElementTree.Element:
    """The only element at an XPath. Raises ValueError if there is none or more than one."""
    (element,) = model.findall(path)
    return element


def _make(stock: Path, folder: Path, models: Models, setting: Setting, change: Callable[[Path], None] | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as work:
        made = Path(work) / folder.name
        _copy(stock / models.folder, made / models.folder, setting)
        if change is not None:
            change(made / models.folder)
        if models.coarsen is not None and setting.cell_m is not None:
            models.coarsen(made / models.folder, setting.cell_m)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first
                raise


def _copy(source: Path, target: Path, setting: Setting) -> None:
    """Rewrites the models and links to meshes and textures, which are most of the size."""
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
