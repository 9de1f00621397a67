"""Makes an expert: by planning in Procgen's simulator, by distilling a reactive expert, or with PPO or SAC.

python -m bcvlr_fast.expert --env procgen:bossfight --distill
python -m bcvlr_fast.expert --env procgen:bossfight --ppo --steps 25e6
python -m bcvlr_fast.expert --env dmc:finger_spin --sac
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bcvlr_fast.experts import making
from bcvlr_fast.system.command import run_command
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen

_RANGES = (
    ("frames", 1, 10_000_000),
    ("first_level", 0, 2**31 - 2**24),
    ("workers", 0, 1024),
    ("steps", 0, 10**12),
    ("seed", 0, 2**20),
    ("updates", 1, 10**9),
)


@dataclass(frozen=True)
class Arguments:
    """Make an expert of an environment, or list the bundled ones."""

    env: str = "procgen:bossfight"
    """Environment as suite:task, such as procgen:bossfight."""
    planner: bool = False
    """Plan in Procgen's simulator (extra [planner]) and write a file of replays."""
    distill: bool = False
    """Distill Procgen's reactive expert of a game into a network and write a file of weights."""
    ppo: bool = False
    """Train on Procgen's rewards with PPO and write a file of weights."""
    sac: bool = False
    """Train on rewards and states of DMControl or MetaWorld with SAC and write a file of weights."""
    updates: int | None = None
    """Distill, SAC: number of updates, by default 20,000 (distill) or 50,000 (SAC, one for every two interactions)."""
    steps: float = 25e6
    """PPO: number of frames to train on."""
    start_from: Path | None = None
    """Distill, PPO: file of weights to start with. PPO: or a file of replays to clone first."""
    seed: int = 0
    """Distill, PPO, SAC: seed of the network and the environments."""
    device: str = "auto"
    """Distill, PPO: auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Distill, PPO: precision of the network. auto is bf16 where the hardware supports it natively."""
    frames: int = 100_000
    """Planner: minimum number of frames in the replays, in whole episodes."""
    first_level: int = 10_000
    """Planner: first of the consecutive levels to play."""
    workers: int = 0
    """Planner, distill: number of processes. 0 uses every core."""
    out: Path | None = None
    """File of replays (planner) or weights (distill, SAC), or folder (PPO), by default in the cache. All but SAC
    continue one that exists."""
    list: bool = False
    """Print the bundled experts with their returns."""
    verify: bool = False
    """Play every bundled replay in EnvPool, check its end and its return, then print the bundled experts."""


def main(arguments: Arguments) -> None:
    """Makes or lists experts. Raises UserError for invalid arguments."""
    screen = Screen()
    if arguments.list or arguments.verify:
        making.print_bundled(screen, verify_first=arguments.verify)
        return
    for name, minimum, maximum in _RANGES:
        value = getattr(arguments, name)
        if value is not None and not minimum <= value <= maximum:
            raise UserError(f"{name}: expected {minimum} .. {maximum}, got {value}")
    chosen = [way for way in making.WAYS if getattr(arguments, way)]
    if len(chosen) != 1:
        raise UserError("expert: expected one of --planner, --distill, --ppo, --sac, --list")
    settings = making.Settings(**{name: getattr(arguments, name) for name in making.Settings._fields})
    file = making.make_expert(chosen[0], settings, screen)
    screen.say(f"expert: {file}")
    screen.say(f"to learn from it: python -m bcvlr_fast.train --env {arguments.env} --videos {file}")


if __name__ == "__main__":
    run_command(main, Arguments)
