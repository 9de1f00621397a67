"""DMControl: the DeepMind Control Suite through EnvPool, and the tasks that URLB (Laskin et al. 2021) adds to it."""

from __future__ import annotations

import functools
from pathlib import Path
from xml.etree import ElementTree

from bcvlr_fast.envs.assets import Models, Setting, asset_folder, only_element
from bcvlr_fast.envs.interface import PixelEnv
from bcvlr_fast.envs.simulation import ACTION_REPEAT, Simulation
from bcvlr_fast.envs.specs import FRAME_SHAPE, Actions, EnvSpec, Rendering
from bcvlr_fast.envs.suite import EnvOptions, Suite

CONTROL_SUITE = (
    "acrobot_swingup",
    "acrobot_swingup_sparse",
    "ball_in_cup_catch",
    "cartpole_balance",
    "cartpole_balance_sparse",
    "cartpole_swingup",
    "cartpole_swingup_sparse",
    "cartpole_two_poles",
    "cartpole_three_poles",
    "cheetah_run",
    "dog_stand",
    "dog_walk",
    "dog_trot",
    "dog_run",
    "dog_fetch",
    "finger_spin",
    "finger_turn_easy",
    "finger_turn_hard",
    "fish_upright",
    "fish_swim",
    "hopper_stand",
    "hopper_hop",
    "humanoid_stand",
    "humanoid_walk",
    "humanoid_run",
    "humanoid_run_pure_state",
    "humanoid_CMU_stand",
    "humanoid_CMU_walk",
    "humanoid_CMU_run",
    "lqr_lqr_2_1",
    "lqr_lqr_6_2",
    "manipulator_bring_ball",
    "manipulator_bring_peg",
    "manipulator_insert_ball",
    "manipulator_insert_peg",
    "pendulum_swingup",
    "point_mass_easy",
    "point_mass_hard",
    "quadruped_walk",
    "quadruped_run",
    "quadruped_escape",
    "quadruped_fetch",
    "reacher_easy",
    "reacher_hard",
    "stacker_stack_2",
    "stacker_stack_4",
    "swimmer_swimmer6",
    "swimmer_swimmer15",
    "walker_stand",
    "walker_walk",
    "walker_run",
)
"""Tasks of the DeepMind Control Suite that EnvPool has."""
JACO_TASKS = (
    "jaco_reach_top_left",
    "jaco_reach_top_right",
    "jaco_reach_bottom_left",
    "jaco_reach_bottom_right",
)
"""URLB's tasks of a Jaco arm, built from dm_control's manipulation."""
TASKS = (*CONTROL_SUITE, "cheetah_run_backward", *JACO_TASKS)
"""cheetah_run_backward is a task of URLB too."""
_ACTION_SIZE = {
    "acrobot": 1,
    "ball_in_cup": 2,
    "cartpole": 1,
    "cheetah": 6,
    "dog": 38,
    "finger": 2,
    "fish": 5,
    "hopper": 4,
    "humanoid": 21,
    "humanoid_CMU": 56,
    "jaco": 9,
    "lqr_lqr_2": 1,
    "lqr_lqr_6": 2,
    "manipulator": 5,
    "pendulum": 1,
    "point_mass": 2,
    "quadruped": 12,
    "reacher": 2,
    "stacker": 5,
    "swimmer_swimmer6": 5,
    "swimmer_swimmer15": 14,
    "walker": 6,
}
"""Numbers in an action, by domain."""
_TIMESTEP_MS = {
    "acrobot": 10,
    "cartpole": 10,
    "cheetah": 10,
    "dog": 15,
    "fish": 40,
    "humanoid": 25,
    "humanoid_CMU": 20,
    "jaco": 40,
    "lqr": 30,
    "manipulator": 10,
    "stacker": 10,
    "swimmer": 30,
    "walker": 25,
}
"""Control timestep by domain; 20 ms in the others."""


def spec(task: str) -> EnvSpec:
    """Spec of a task, from tables: no simulator is loaded."""
    rate = 1000 / (ACTION_REPEAT * _by_domain(_TIMESTEP_MS, task, 20))
    return EnvSpec(FRAME_SHAPE, Actions(True, _by_domain(_ACTION_SIZE, task)), rate, "return", max_envs=16)


def simulation(task: str, seeds: list[int], rendering: Rendering | None) -> Simulation:
    """Physics of a task, one environment per seed; `rendering` None gives states alone and needs no graphics."""
    if task in JACO_TASKS:
        from bcvlr_fast.envs.jaco import JacoSimulation

        return JacoSimulation(task, seeds, rendering)
    from bcvlr_fast.envs.mujoco import EnvPoolSimulation

    assets = asset_folder(MODELS, task, rendering or "stock")
    return EnvPoolSimulation("dmc", "envpool.mujoco.dmc", envpool_id(task), assets, seeds, rendering)


def envpool_id(task: str) -> str:
    """EnvPool's name of a task that it has, or of the one that `MODELS` turns into the task."""
    words = ("cheetah_run" if task == "cheetah_run_backward" else task).split("_")
    return "".join(word[0].upper() + word[1:] for word in words) + "-v1"


def _make(task: str, num_envs: int, seed: int, options: EnvOptions) -> PixelEnv:
    from bcvlr_fast.envs.simulated import Simulated

    rendering = None if options.blind else options.rendering
    return Simulated(spec(task), functools.partial(simulation, task), num_envs, seed, rendering)


def _by_domain(table: dict[str, int], task: str, default: int = 0) -> int:
    """Returns the entry of the longest key that the task's name starts with."""
    keys = [key for key in table if task.startswith(f"{key}_") or task == key]
    return table[max(keys, key=len)] if keys else default


def _turn_cheetah(folder: Path) -> None:
    """Turns the cheetah and its ground by 180 degrees about z.

    Running forward is then running to -x, which URLB's cheetah_run_backward rewards.
    """
    file = folder / "cheetah.xml"
    model = ElementTree.parse(file)
    only_element(model, ".//body[@name='torso']").set("quat", "0 0 0 1")
    only_element(model, ".//geom[@name='ground']").attrib.update(pos="-98 0 0", quat="0 0 0 1", size="200 .8 .5")
    model.write(file)


def _hide_tip(folder: Path) -> None:
    """Hides the spinner's tip, as dm_control does in this task. EnvPool clears a color channel in place of alpha."""
    file = folder / "finger.xml"
    model = ElementTree.parse(file)
    only_element(model, ".//site[@name='tip']").set("rgba", "0 0 0 0")
    model.write(file)


MODELS = Models(
    "dmc",
    Path("mujoco/assets_dmc"),
    {"stock": Setting(), "fast": Setting((("shadowsize", 256), ("numslices", 12), ("numstacks", 6)))},
    changes={"cheetah_run_backward": _turn_cheetah, "finger_spin": _hide_tip},
)
SUITE = Suite(
    "dmc",
    spec=spec,
    make=_make,
    tasks=TASKS,
    expert="trained",
    makers=("sac",),
    models=MODELS,
    simulation=simulation,
)
