"""Makes experts: Procgen's by planning in the simulator or with PPO, DMControl's and MetaWorld's by SAC on states.

python -m bcvlr_fast.expert --env procgen:bossfight --planner --frames 100000
python -m bcvlr_fast.expert --env procgen:bossfight --ppo --steps 25e6
python -m bcvlr_fast.expert --env dmc:finger_spin --sac
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from bcvlr_fast.envs import parse_name
from bcvlr_fast.experts import behaviors as behaviours
from bcvlr_fast.experts import planner, replays, simulator
from bcvlr_fast.experts.bundled import PAPER_EXPERT, _table, behaviours_table, bundled_table, cells
from bcvlr_fast.experts.recorder import verify
from bcvlr_fast.system.command import run_command
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import cache_folder, check_writable, lock_folder
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen

_SCORED_EPISODES = 20
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
    """Make expert replays of an environment, or list those that are bundled."""

    env: str = "procgen:bossfight"
    """suite:task, such as procgen:bossfight."""
    planner: bool = False
    """Plan in Procgen's simulator (extra [planner])."""
    ppo: bool = False
    """Learn from rewards with PPO, then play."""
    sac: bool = False
    """Learn from rewards and states with SAC, and keep the weights, which record themselves anew."""
    updates: int = 50_000
    """SAC: updates, one for every two steps of the agent."""
    steps: float = 25e6
    """PPO: frames to learn from."""
    start_from: Path | None = None
    """PPO: replays to clone first, such as the planner's."""
    seed: int = 0
    """PPO, SAC: seed of network and environments."""
    device: str = "auto"
    """PPO: auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    frames: int = 100_000
    """Frames of replays to make, at least; the last episode is finished."""
    first_level: int = 10_000
    """The first of the levels that are played, one after another."""
    workers: int = 0
    """Processes that plan; 0 takes one per core."""
    out: Path | None = None
    """Replay file (planner), folder (PPO) or file of weights (SAC), by default under the cache folder. Replays and
    folders that are there are gone on with."""
    list: bool = False
    """Print the bundled experts: replays by game with their returns, and DMControl's weights with theirs."""
    verify: bool = False
    """Play every bundled replay again in EnvPool first: its end and its return must come out."""


def main(arguments: Arguments) -> None:
    """The command."""
    screen = Screen()
    if arguments.list or arguments.verify:
        if arguments.verify:
            for game in replays.available():
                verify(f"procgen:{game}", replays.load(game), screen)
        screen.table(bundled_table())
        screen.table(behaviours_table())
        return
    suite, game = parse_name(arguments.env)
    for name, least, most in _RANGES:
        if not least <= getattr(arguments, name) <= most:
            raise UserError(f"{name}: expected {least} .. {most}, got {getattr(arguments, name)}")
    if arguments.planner + arguments.ppo + arguments.sac != 1:
        raise UserError("expert: expected one of --planner, --ppo, --sac, --list")
    if suite not in (("dmc", "metaworld") if arguments.sac else ("procgen",)):
        raise UserError(f"expert: --{'sac' if arguments.sac else 'planner and --ppo'} is not for {suite}")
    if arguments.sac:
        _sac(arguments, game, screen)
        return
    file = _planner(arguments, game, screen) if arguments.planner else _ppo(arguments, game, screen)
    made = replays.load_file(file, game)
    verify(arguments.env, made, screen)
    table = _table()
    table.add_row(*cells(game, made))
    screen.table(table)
    screen.say(f"every episode comes out in EnvPool as it was played\nreplays: {file}")
    screen.say(f"to learn from them: python -m bcvlr_fast.train --env {arguments.env} --videos {file}")


def _planner(arguments: Arguments, game: str, screen: Screen) -> Path:
    file = arguments.out or cache_folder() / "experts" / f"procgen-{game}-planner.npz"
    if file.suffix != ".npz":
        raise UserError(f"out: expected a file named .npz, got {file}")
    check_writable(file.parent, "out")
    simulator.check_installed()
    workers = arguments.workers or usable_cores()
    planner.plan_replays(game, arguments.frames, arguments.first_level, workers, file, screen)
    return file


def _ppo(arguments: Arguments, game: str, screen: Screen) -> Path:
    import torch

    from bcvlr_fast.experts import ppo_training
    from bcvlr_fast.training.compute import choose_compute, choose_device

    folder = arguments.out or cache_folder() / "experts" / f"procgen-{game}-ppo-s{arguments.seed}"
    check_writable(folder, "out")
    start_from = replays.load_file(arguments.start_from, game) if arguments.start_from else None
    compute = choose_compute(choose_device(arguments.device), arguments.precision)
    if compute.device.type == "cpu":
        torch.set_num_threads(usable_cores())
    file = folder / ppo_training.REPLAYS
    with lock_folder(folder):
        expert = ppo_training.train(game, int(arguments.steps), folder, compute, arguments.seed, screen, start_from)
        score = ppo_training.score(expert, game)
        (folder / ppo_training.SCORE).write_text(json.dumps({"frames": expert.frames_done, **asdict(score)}))
        screen.say(
            f"after {expert.frames_done:,} frames: return {score.mean:.2f} ({score.low:.2f} .. {score.high:.2f})"
        )
        ppo_training.record(expert, game, arguments.frames, arguments.first_level, screen).save(file)
        expert.close()
    return file


def _sac(arguments: Arguments, task: str, screen: Screen) -> None:
    import torch

    from bcvlr_fast.envs.scoring import EVALUATION_SEED, Score
    from bcvlr_fast.experts import sac_training
    from bcvlr_fast.experts.sac import SacConfig

    file = arguments.out or cache_folder() / "experts" / f"{arguments.env.replace(':', '-')}-s{arguments.seed}"
    file = file if file.suffix == behaviours.SUFFIX else file.with_name(file.name + behaviours.SUFFIX)
    check_writable(file.parent, "out")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # more are slower on networks as small
    start = time.monotonic()
    settings = SacConfig(arguments.updates)
    actor, curve = sac_training.train(arguments.env, settings, arguments.seed, screen)
    actor = sac_training.rounded(actor)
    returns = sac_training.returns(actor, arguments.env, _SCORED_EPISODES, EVALUATION_SEED)
    score = Score.of(returns)
    card = {"env": arguments.env, "seed": arguments.seed, **asdict(settings), "return": asdict(score)}
    card |= {"minutes": round((time.monotonic() - start) / 60, 1), "curve": curve}
    sac_training.save(file, actor, card)
    paper = PAPER_EXPERT.get(task)
    beside = f", the paper's expert {paper:g}" if paper else ""
    screen.say(f"return {score.mean:.1f} ({score.low:.1f} .. {score.high:.1f}) over {score.episodes} episodes{beside}")
    screen.say(f"weights: {file}\nto learn from it: python -m bcvlr_fast.train --env {arguments.env} --videos {file}")


if __name__ == "__main__":
    run_command(main, Arguments)
