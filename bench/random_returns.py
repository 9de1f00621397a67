"""Random-policy returns of all 16 Procgen games, beside the constants published with LAPO.

python bench/random_returns.py [--episodes 768] [--out results/random_returns.jsonl]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bcvlr_fast.envs import PROCGEN_GAMES, make
from bcvlr_fast.envs.procgen import NUM_ACTIONS
from bcvlr_fast.envs.scoring import Score, play
from bcvlr_fast.system.host import machine

# schmidtdominik/LAPO, env_utils.py
PUBLISHED = {
    "bigfish": 0.87,
    "bossfight": 0.05,
    "caveflyer": 2.60,
    "chaser": 0.66,
    "climber": 2.22,
    "coinrun": 2.70,
    "dodgeball": 0.61,
    "fruitbot": -2.53,
    "heist": 3.08,
    "jumper": 3.41,
    "leaper": 2.51,
    "maze": 4.27,
    "miner": 1.25,
    "ninja": 2.56,
    "plunder": 4.32,
    "starpilot": 1.53,
}


def random_score(game: str, episodes: int) -> Score:
    """Score of uniformly random actions over the full level distribution."""
    rng = np.random.default_rng(0)
    env = make(f"procgen:{game}", num_envs=96, seed=0)

    score = play(env, lambda turn: rng.integers(NUM_ACTIONS, size=len(turn.frames)), episodes)
    env.close()
    return score


def main() -> None:
    """Prints and appends one row per game."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=768)
    parser.add_argument("--out", type=Path, default=Path("results/random_returns.jsonl"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    where = machine()
    with arguments.out.open("a") as file:
        for game in PROCGEN_GAMES:
            score = random_score(game, arguments.episodes)
            difference = score.mean - PUBLISHED[game]
            deviation = difference / score.standard_error if score.standard_error else float("nan")
            print(
                f"{game:10s} {score.mean:6.2f} +- {score.standard_error:.2f}  "
                f"published {PUBLISHED[game]:6.2f}  {deviation:+.1f} standard errors",
                flush=True,
            )
            row = {"game": game, "published": PUBLISHED[game], **asdict(score), "machine": where}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
