"""Trains an expert on states with SAC, evaluates it, and saves its weights."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from bcvlr_fast.envs import SUITES, parse_name, spec
from bcvlr_fast.envs.scoring import EVALUATION_SEED, Score
from bcvlr_fast.envs.simulation import Simulation
from bcvlr_fast.envs.specs import env_seeds
from bcvlr_fast.experts.expert import WEIGHTS_SUFFIX
from bcvlr_fast.experts.paper import PAPER_EXPERT
from bcvlr_fast.experts.sac import Actor, Sac, SacConfig, StateReplay
from bcvlr_fast.experts.weights import rounded, save_weights
from bcvlr_fast.system.files import cache_folder, check_writable
from bcvlr_fast.system.screen import Screen

_CAPACITY = 1_000_000
_CHECK_EPISODES = 10
_CHECK_SEED = 2**29
_SCORED_EPISODES = 20


def make_weights(env_name: str, updates: int, seed: int, out: Path | None, screen: Screen) -> Path:
    """Trains an expert, scores it, and returns its file of weights, `out` or by default one in the cache."""
    file = out or cache_folder() / "experts" / f"{env_name.replace(':', '-')}-s{seed}"
    file = file if file.suffix == WEIGHTS_SUFFIX else file.with_name(file.name + WEIGHTS_SUFFIX)
    check_writable(file.parent, "out")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # more threads are slower on such small networks
    start = time.monotonic()
    settings = SacConfig(updates)
    actor, curve = train(env_name, settings, seed, screen)
    actor = rounded(actor)
    score = Score.of(returns(actor, env_name, _SCORED_EPISODES, EVALUATION_SEED))
    card = {"env": env_name, "seed": seed, **asdict(settings), "return": asdict(score)}
    card |= {"minutes": round((time.monotonic() - start) / 60, 1), "curve": curve}
    save_weights(file, actor, card)
    paper = PAPER_EXPERT.get(parse_name(env_name)[1])
    beside = f"; the paper's expert: {paper:g}" if paper else ""
    screen.say(f"return {score.mean:.1f} ({score.low:.1f} .. {score.high:.1f}) over {score.episodes} episodes{beside}")
    return file


def train(env_name: str, config: SacConfig, seed: int, screen: Screen) -> tuple[Actor, list[list[float]]]:
    """Returns the best actor and its learning curve of [interactions, mean return of 10 episodes]."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    env, action_dim = simulation(env_name, env_seeds(seed, config.num_envs)), spec(env_name).actions.size
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
            if outcome.ended.any():  # at the time limit, or at rest in lqr: returns do not end there
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
    """Plays one episode per environment with mean actions and returns the returns [episodes] float64."""
    env = simulation(env_name, env_seeds(seed, episodes))
    running = np.arange(episodes, dtype=np.int32)
    states = env.reset(running)
    total = np.zeros(episodes)
    while len(running):
        states, outcome = env.step(actor.act(states), running)
        total[running] += outcome.reward
        running, states = running[~outcome.ended], states[~outcome.ended]
    env.close()
    return total


def simulation(env_name: str, seeds: list[int]) -> Simulation:
    """Physics of a MuJoCo task without frames, one environment per seed."""
    suite, task = parse_name(env_name)
    simulate = SUITES[suite].simulation
    assert simulate is not None, f"{suite} has no states to learn from"
    return simulate(task, seeds, None)
