"""Scores a policy beside random play and the expert.

python -m bcvlr_fast.evaluate runs/procgen-bossfight/20260101-120000-s0 --episodes 100
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bcvlr_fast.envs.scoring import EVALUATION_SEED
from bcvlr_fast.system.command import run_command
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen


@dataclass(frozen=True)
class Arguments:
    """Score the policy of a run, random play and the expert.

    The policy acts in three ways: sampled, greedy, and unstuck: sampled at temperature 0.5, but at random where it has
    been before.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or a folder with policy.json."""
    episodes: int = 100
    """Episodes of each policy."""
    seed: int = EVALUATION_SEED
    """Seed of the environments, whose levels come from the full distribution."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def main(arguments: Arguments) -> None:
    """The command."""
    from bcvlr_fast.evaluation.evaluation import RESULT, evaluate
    from bcvlr_fast.runs.results import expert_scores, load_policy

    if arguments.episodes < 1:
        raise UserError(f"episodes: expected >= 1, got {arguments.episodes}")
    if not 0 <= arguments.seed < 2**31:
        raise UserError(f"seed: expected 0 <= value < 2^31, got {arguments.seed}")
    screen = Screen()
    policy = load_policy(arguments.run, arguments.device)
    scores = expert_scores(arguments.run)
    evaluation = evaluate(policy, arguments.episodes, arguments.seed, screen, scores)
    (arguments.run / RESULT).write_text(evaluation.to_json())
    screen.table(evaluation.table())
    screen.say(f"scores: {arguments.run / RESULT}")


if __name__ == "__main__":
    run_command(main, Arguments)
