"""MetaWorld: its 50 tasks, scored by success, through EnvPool."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from xml.etree import ElementTree

from bcvlr_fast.envs.assets import Models, Setting, asset_folder, only_element
from bcvlr_fast.envs.interface import PixelEnv
from bcvlr_fast.envs.meshes import coarser, read_stl, write_stl
from bcvlr_fast.envs.simulation import Simulation
from bcvlr_fast.envs.specs import FRAME_SHAPE, Actions, EnvSpec, Rendering
from bcvlr_fast.envs.suite import EnvOptions, Suite

_SPEC = EnvSpec(FRAME_SHAPE, Actions(True, 4), 40.0, "success", max_envs=16)
_ROBOT = Path("assets/objects/assets/xyz_base.xml")
_ROBOT_MESHES = Path("assets/objects/assets/xyz_base_dependencies.xml")
TASKS = (
    "assembly",
    "basketball",
    "bin-picking",
    "box-close",
    "button-press",
    "button-press-topdown",
    "button-press-topdown-wall",
    "button-press-wall",
    "coffee-button",
    "coffee-pull",
    "coffee-push",
    "dial-turn",
    "disassemble",
    "door-close",
    "door-lock",
    "door-open",
    "door-unlock",
    "drawer-close",
    "drawer-open",
    "faucet-close",
    "faucet-open",
    "hammer",
    "hand-insert",
    "handle-press",
    "handle-press-side",
    "handle-pull",
    "handle-pull-side",
    "lever-pull",
    "peg-insert-side",
    "peg-unplug-side",
    "pick-out-of-hole",
    "pick-place",
    "pick-place-wall",
    "plate-slide",
    "plate-slide-back",
    "plate-slide-back-side",
    "plate-slide-side",
    "push",
    "push-back",
    "push-wall",
    "reach",
    "reach-wall",
    "shelf-place",
    "soccer",
    "stick-pull",
    "stick-push",
    "sweep",
    "sweep-into",
    "window-close",
    "window-open",
)


def simulation(task: str, seeds: list[int], rendering: Rendering | None) -> Simulation:
    """Physics of a task, one environment per seed; `rendering` None gives states alone and needs no graphics.

    States include the goal, which the scripted experts need.
    """
    from bcvlr_fast.envs.mujoco import EnvPoolSimulation

    return EnvPoolSimulation(
        "metaworld",
        "envpool.mujoco.metaworld",
        envpool_id(task),
        asset_folder(MODELS, task, rendering or "stock"),
        seeds,
        rendering,
        partially_observable=False,
    )


def envpool_id(task: str) -> str:
    """EnvPool's name of a task."""
    return f"MetaWorld/{''.join(word[0].upper() + word[1:] for word in task.split('-'))}-v3"


def _make(task: str, num_envs: int, seed: int, options: EnvOptions) -> PixelEnv:
    from bcvlr_fast.envs.simulated import Simulated

    rendering = None if options.blind else options.rendering
    return Simulated(_SPEC, functools.partial(simulation, task), num_envs, seed, rendering)


def _coarsen_robot(folder: Path, cell_m: float) -> None:
    """Draws a coarser copy of each mesh of the robot. Meshes that collide stay in the model, invisible."""
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
            only_element(meshes, "asset").append(drawn)
        at = folder / "assets/sawyer_xyz"  # paths are relative to the model that includes these files
        write_stl(at / drawn.attrib["file"], coarser(read_stl(at / file), cell_m))
    robot.write(folder / _ROBOT)
    meshes.write(folder / _ROBOT_MESHES)


MODELS = Models(
    "metaworld",
    Path("mujoco/metaworld"),
    {
        "stock": Setting(),  # reflections can go in fast: no reflective surface is in view of camera 0
        "fast": Setting((("shadowsize", 512), ("numslices", 12), ("numstacks", 6)), reflections=False, cell_m=0.0125),
    },
    coarsen=_coarsen_robot,
)
SUITE = Suite(
    "metaworld",
    spec=lambda _: _SPEC,
    make=_make,
    tasks=TASKS,
    expert="scripted",
    makers=("sac",),
    models=MODELS,
    simulation=simulation,
)
