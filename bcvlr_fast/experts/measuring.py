"""Scores of networks that play Procgen, and the cards that keep them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bcvlr_fast.envs.procgen import Procgen
from bcvlr_fast.envs.scoring import EVALUATION_SEED, Score, play
from bcvlr_fast.experts.network import ActorCritic, logits_for, save_network
from bcvlr_fast.experts.paper import PAPER_EXPERT
from bcvlr_fast.experts.playing import PlayingExpert, sample_actions
from bcvlr_fast.experts.weights import rounded
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.host import machine
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import Compute

_SCORED_EPISODES = 256
_CHECK_EPISODES, _CHECK_SEED = 64, 2**29
_TEMPERATURES = (0.0, 0.5, 1.0)
_WATCHED_FRAMES = 20_000
_HISTORY = ("made_by", "updates", "steps", "minutes", "curve", "return", "temperature", "started_from")
"""What the card of a network keeps of the card of the one that it started from."""


def check_same(folder: Path, before: dict[str, Any], about: dict[str, Any]) -> None:
    """Raises UserError if `before`, the settings of the expert in a folder, differ from `about`."""
    about = json.loads(json.dumps(about))
    for name, value in about.items():
        if before.get(name) != value:
            raise UserError(f"out: {folder} belongs to another expert ({name} {before.get(name)}, got {value})")


def save_measured(
    file: Path,
    network: ActorCritic,
    game: str,
    about: dict[str, Any],
    started_from: dict[str, Any] | None,
    compute: Compute,
    screen: Screen,
) -> None:
    """Saves a network, as it is in half precision, with a card: how it was made, its return and how often it changes
    its action. It acts at its best temperature. `started_from` is the card of the network that it started from."""
    network = rounded(network)
    temperature, _ = best_temperature(network, game, compute)
    score = score_network(network, game, compute, _SCORED_EPISODES, EVALUATION_SEED, temperature)
    card = {"env": f"procgen:{game}", **about, "return": asdict(score), "machine": machine()}
    card |= {"temperature": temperature, "change_rate": round(change_rate(network, game, compute, temperature), 4)}
    if started_from is not None:
        card["started_from"] = {name: started_from[name] for name in _HISTORY if name in started_from}
    save_network(file, network, card)
    interval = f"{score.mean:.2f} ({score.low:.2f} .. {score.high:.2f})"
    acting = f"return {interval} over {score.episodes} episodes at temperature {temperature:g}"
    screen.say(f"{acting}; the paper's expert: {PAPER_EXPERT[game]:g}")


def best_temperature(network: ActorCritic, game: str, compute: Compute) -> tuple[float, float]:
    """(temperature with the highest mean return, that return) in a few episodes, other ones than a card counts."""
    means = {
        temperature: score_network(network, game, compute, _CHECK_EPISODES, _CHECK_SEED, temperature).mean
        for temperature in _TEMPERATURES
    }
    return max(means.items(), key=lambda each: each[1])


def score_network(
    network: ActorCritic, game: str, compute: Compute, episodes: int, seed: int, temperature: float
) -> Score:
    """Score on levels of the full distribution, of actions drawn at a temperature."""
    env, random = Procgen(game, min(episodes, 64), seed), np.random.default_rng(seed)
    try:
        return play(
            env, lambda turn: sample_actions(logits_for(network, turn.frames, compute), temperature, random), episodes
        )
    finally:
        env.close()


def change_rate(network: ActorCritic, game: str, compute: Compute, temperature: float) -> float:
    """Fraction of the steps in which the action differs from the one before."""
    expert = PlayingExpert(f"procgen:{game}", "", lambda frames: logits_for(network, frames, compute), temperature)
    changes = [np.diff(episode.actions) != 0 for episode in expert.episodes(_WATCHED_FRAMES, 0, "stock")]
    return float(np.concatenate(changes).mean())
