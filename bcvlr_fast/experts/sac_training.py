"""Training a state-based expert: environments, replay, evaluation, and the weights that are kept."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bcvlr_fast.envs import spec
from bcvlr_fast.envs.rendered import simulation
from bcvlr_fast.envs.specs import env_seeds
from bcvlr_fast.experts.sac import Actor, Sac, SacConfig, StateReplay
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import write_whole
from bcvlr_fast.system.screen import Screen

_CAPACITY = 1_000_000
_CHECK_EPISODES = 10
_CHECK_SEED = 2**29


def train(env_name: str, config: SacConfig, seed: int, screen: Screen) -> tuple[Actor, list[list[float]]]:
    """The best actor found, and its learning curve: [interactions, mean return of 10 episodes]."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    env, action_dim = simulation(env_name, env_seeds(seed, config.num_envs), None), spec(env_name).actions.size
    everyone = np.arange(config.num_envs, dtype=np.int32)
    states = env.reset(everyone)
    sac = Sac(states.shape[1], action_dim, config)
    replay = StateReplay(_CAPACITY, states.shape[1], action_dim)
    best, best_return, curve = copy.deepcopy(sac.actor), -np.inf, []
    done, interactions = 0, 0
    with screen.bar("soft actor-critic", total=config.updates, unit="updates") as bar:
        while done < config.updates:
            if interactions < config.random_steps:
                actions = rng.uniform(-1, 1, (config.num_envs, action_dim)).astype(np.float32)
            else:
                actions = sac.actor.act(states, explore=True)
            next_states, outcome = env.step(actions, everyone)
            replay.append(states, actions, outcome.reward, next_states)
            states = next_states.copy()
            if outcome.ended.any():  # all at once, by the time limit, or in lqr at rest: neither is the end of returns
                states[outcome.ended] = env.reset(everyone[outcome.ended])
            interactions += config.num_envs
            if interactions < config.random_steps:
                continue
            if done == 0:
                sac.actor.mean, sac.actor.scale = replay.statistics()
            for _ in range(max(1, config.num_envs // config.steps_per_update)):
                sac.update(replay.draw(config.batch_size))
                done += 1
                bar.advance(1)
                if done % config.evaluate_every == 0 or done == config.updates:
                    mean = float(returns(sac.actor, env_name, _CHECK_EPISODES, _CHECK_SEED + done).mean())
                    curve.append([interactions, mean])
                    bar.show(f"return {mean:.1f}")
                    if mean > best_return:
                        best, best_return = copy.deepcopy(sac.actor), mean
    env.close()
    return best, curve


def returns(actor: Actor, env_name: str, episodes: int, seed: int) -> np.ndarray:
    """[episodes] returns of the actor's mean actions, an episode in each environment."""
    env = simulation(env_name, env_seeds(seed, episodes), None)
    going = np.arange(episodes, dtype=np.int32)
    states = env.reset(going)
    total = np.zeros(episodes)
    while len(going):
        states, outcome = env.step(actor.act(states), going)
        total[going] += outcome.reward
        going, states = going[~outcome.ended], states[~outcome.ended]
    env.close()
    return total


def save(file: Path, actor: Actor, card: dict[str, Any]) -> None:
    """The actor, rounded, with its card as the file's metadata."""
    tensors = _rounded_weights(actor)
    write_whole(file, lambda part: save_file(tensors, part, {"card": json.dumps(card)}))


def rounded(actor: Actor) -> Actor:
    """The actor as `load` gives it back."""
    kept = copy.deepcopy(actor)
    kept.load_state_dict(_rounded_weights(actor))
    return kept


def _rounded_weights(actor: Actor) -> dict[str, Tensor]:
    """Matrices in half precision."""
    return {name: value.half() if value.ndim > 1 else value for name, value in actor.state_dict().items()}


def load(file: Path) -> tuple[Actor, dict[str, Any]]:
    """(actor, card) that `save` wrote. Raises UserError where the file is not such."""
    try:
        with safe_open(file, "pt") as kept:
            card = json.loads(kept.metadata()["card"])
            tensors = {name: kept.get_tensor(name).float() for name in kept.keys()}  # noqa: SIM118
        hidden, state_dim = tensors["layers.0.weight"].shape
        actor = Actor(state_dim, len(tensors["layers.4.bias"]) // 2, hidden)
        actor.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"expert: {file}: not an expert's weights ({error})") from None
    return actor, card
