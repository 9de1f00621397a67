"""Trains a PPO expert with checkpoints, scores it, and saves its weights."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bcvlr_fast.envs.scoring import EVALUATION_SEED
from bcvlr_fast.experts.expert import WEIGHTS_SUFFIX
from bcvlr_fast.experts.measuring import check_same, save_measured
from bcvlr_fast.experts.network import ActorCritic, digest, load_network
from bcvlr_fast.experts.ppo import PPO, PPOConfig
from bcvlr_fast.experts.replaying import play as play_replays
from bcvlr_fast.experts.replays import Replays, load_replays
from bcvlr_fast.experts.trained import is_weights
from bcvlr_fast.system.errors import Diverged, UserError
from bcvlr_fast.system.files import cache_folder, check_writable, lock_folder, write_whole
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training.compute import Compute, choose_compute, choose_device
from bcvlr_fast.training.metrics_log import MetricsLog

_SAVE_EVERY_S = 60.0
_CLONE_UPDATES = 3000
_FROM_NETWORK: dict[str, Any] = {"anneal": True, "value_frames": 8 * PPOConfig().batch_frames, "entropy_weight": 0.0}
"""Settings for a distilled network, whose policy explores enough: it is softer than the best one."""
_RENAMED = {"most_gradient_norm": "max_grad_norm", "most_reward": "max_reward"}
"""Settings that older folders name otherwise."""
_ADDED = {"stem": 0, "anneal": False, "value_frames": 0}
"""Settings that older folders lack, with the values that they had."""


def make_weights(
    game: str,
    steps: int,
    seed: int,
    *,
    device: str,
    precision: str,
    start_from: Path | None,
    out: Path | None,
    screen: Screen,
) -> Path:
    """Trains on `steps` frames in the folder `out`, by default one in the cache, and returns the file of weights.

    `start_from` is a file of replays to clone first, or of the weights to start with. Raises UserError and Diverged as
    `train` does.
    """
    folder = out or cache_folder() / "experts" / f"procgen-{game}-ppo-s{seed}"
    check_writable(folder, "out")
    start: Replays | ActorCritic | None = None
    config, about_start = PPOConfig(), None
    if start_from is not None and is_weights(start_from):
        start, about_start = load_network(start_from, f"procgen:{game}")
        config = PPOConfig(**asdict(start.sizes), **_FROM_NETWORK)
    elif start_from is not None:
        start = load_replays(start_from, game)
    compute = choose_compute(choose_device(device), precision)
    if compute.device.type == "cpu":
        torch.set_num_threads(usable_cores())
    with lock_folder(folder):
        ppo = train(game, steps, folder, compute, seed, screen, start, config)
        ppo.close()
        file = folder / f"network{WEIGHTS_SUFFIX}"
        about = {"made_by": "ppo", "seed": seed, "steps": ppo.frames_done, **asdict(config)}
        save_measured(file, ppo.network, game, about, about_start, compute, screen)
    return file


def train(
    game: str,
    steps: int,
    folder: Path,
    compute: Compute,
    seed: int,
    screen: Screen,
    start_from: Replays | ActorCritic | None = None,
    config: PPOConfig | None = None,
) -> PPO:
    """Trains on at most `steps` frames, in whole iterations, at least one, from the folder's newest checkpoint if any.

    A new expert first clones the replays `start_from`, or starts with the weights of that network. Raises UserError if
    the folder belongs to another expert or has only damaged checkpoints, and Diverged if a loss is not finite.
    """
    config = config or PPOConfig()
    first = digest(start_from) if isinstance(start_from, ActorCritic) else start_from and start_from.digest
    _keep_settings(folder / "config.json", {"game": game, "seed": seed, "start_from": first, **asdict(config)})
    kept = checkpoint.load_to_resume(folder / "ckpt", screen.warn)
    if kept and kept.get("format") == 1:
        raise UserError(f"out: {folder}: a checkpoint of an earlier version (format 1): choose another folder")
    done = kept["ppo"]["frames"] if kept else 0
    env_seed = int(np.random.default_rng((seed, done)).integers(EVALUATION_SEED - config.num_envs))
    ppo = PPO(game, config, compute, seed, env_seed)
    log = MetricsLog(folder, "none", time.monotonic())
    if kept:
        ppo.load_state_dict(kept["ppo"])
        log.load_state_dict(kept["log"])
    elif isinstance(start_from, ActorCritic):
        ppo.network.load_state_dict(start_from.state_dict())
    elif start_from is not None:
        frames = np.concatenate(list(play_replays(start_from)))
        _clone(ppo, frames, start_from, screen)
    saved = time.monotonic()
    steps = max(1, steps // config.batch_frames) * config.batch_frames
    with screen.bar(f"PPO on {game}", total=steps, unit="frames", done=ppo.frames_done) as bar:
        while ppo.frames_done < steps:
            begun = time.monotonic()
            metrics = ppo.iterate(ppo.frames_done / steps)
            if not np.isfinite(metrics["policy_loss"] + metrics["value_loss"]):
                raise Diverged(
                    f"ppo: a loss is not finite at {ppo.frames_done:,} frames; {folder} keeps the last checkpoint"
                )
            rate = config.batch_frames / (time.monotonic() - begun)
            log.write("ppo", ppo.frames_done, {"frames_per_s": rate, **metrics})
            bar.advance(config.batch_frames)
            bar.show(f"return {metrics.get('return', float('nan')):.2f}  {rate:,.0f} frames/s")
            if time.monotonic() - saved > _SAVE_EVERY_S or ppo.frames_done >= steps:
                _save(ppo, folder, log)
                saved = time.monotonic()
    log.close()
    return ppo


def _keep_settings(file: Path, about: dict[str, Any]) -> None:
    """Writes an expert's settings to a new file. Raises UserError if the file exists with other settings."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda part: part.write_text(json.dumps(about, indent=1)))
        return
    try:
        kept = json.loads(file.read_text())
        before = _ADDED | {_RENAMED.get(name, name): value for name, value in kept.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"out: {file}: not the settings of an expert ({error})") from None
    check_same(file.parent, before, about)


def _clone(ppo: PPO, frames: np.ndarray, expert: Replays, screen: Screen) -> None:
    """Clones the replays; the last frame of every episode has no action."""
    last = (expert.length + 1).cumsum() - 1
    seen = torch.from_numpy(np.delete(frames, last, axis=0)).to(ppo.compute.device)
    loss = ppo.clone(seen, torch.from_numpy(expert.actions.astype(np.int64)).to(seen.device), _CLONE_UPDATES)
    screen.say(f"cloned {len(seen):,} frames: cross-entropy {loss:.2f}")


def _save(ppo: PPO, folder: Path, log: MetricsLog) -> None:
    state = {"ppo": ppo.state_dict(), "log": log.state_dict()}
    checkpoint.save(folder / "ckpt", ppo.frames_done, state)
