"""Upper bound of cloning at scale `quick`: trains the policy networks on the expert's true actions.

python bench/true_actions.py --games bigfish maze

No phase can have better labels, so if this fails on a game, videos and cloning limit it, not latent actions or
fine-tuning. Uses as many updates and frames as a quick run uses for cloning in total, and trains f too. Rows go to
results/true_actions.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bcvlr_fast import config
from bcvlr_fast.config import Config
from bcvlr_fast.envs import PROCGEN_GAMES, make, spec
from bcvlr_fast.envs.scoring import EVALUATION_SEED, play
from bcvlr_fast.experts import recorder, replays
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.system.command import call
from bcvlr_fast.system.host import usable_cores
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import Compute, choose_compute, choose_device
from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos import open_videos
from bcvlr_fast.videos.labels import NO_ACTION
from rows import RESULTS, Row, write

_HELD_OUT = 4096


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=PROCGEN_GAMES, default=PROCGEN_GAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(usable_cores())
    compute = choose_compute(choose_device("auto"), "auto")
    for game in arguments.games:
        row = cloned(game, arguments.seed, compute)
        cells = " ".join(f"{name} {row[name]:.2f}" for name in ("accuracy", "commonest", "random", "expert"))
        score = row["sampled"]
        print(f"{game}: {cells}, sampled {score['mean']:.2f} ({score['low']:.2f} .. {score['high']:.2f})", flush=True)
        write(arguments.rows / "true_actions.jsonl", [row], lambda row: (row["game"], row["seed"]), compute.device)


def cloned(game: str, seed: int, compute: Compute) -> Row:
    """Trains a policy on one game and returns its scores."""
    name = f"procgen:{game}"
    settings = config.preset(name, "quick")
    expert = replays.load(game)
    folder = recorder.default_folder(name, expert)
    recorder.record(name, expert, folder, Screen())
    labels = evaluation_labels.load_labels(folder)
    assert labels is not None
    frames = torch.from_numpy(np.array(open_videos(folder, spec(name).frame_shape).frames)).to(compute.device)
    action = torch.from_numpy(labels.action.astype(np.int64)).to(compute.device)
    acted = (action != NO_ACTION).nonzero()[:, 0]
    first_held_out = int((1 - settings.held_out) * len(acted))
    torch.manual_seed(seed)
    generator = torch.Generator(compute.device)
    generator.manual_seed(seed)
    agent = Agent(settings, spec(name), compute)
    _train(agent, settings, frames, action, acted[:first_held_out], generator)
    agent.eval()
    held_out = acted[first_held_out:][:_HELD_OUT]
    guessed = torch.cat([agent.act(frames[rows], None) for rows in held_out.split(512)])
    random = np.random.default_rng(seed)
    acts = {
        "sampled": lambda seen: agent.act(torch.from_numpy(seen).to(compute.device), generator).cpu().numpy(),
        "random": lambda seen: agent.spec.actions.draw(random, len(seen)),
    }
    scores = {}
    for policy, act in acts.items():
        env = make(name, settings.episodes, EVALUATION_SEED)
        scores[policy] = play(env, act, settings.episodes)
        env.close()
    return {
        "game": game,
        "seed": seed,
        "frames": len(frames),
        "accuracy": float((guessed == action[held_out]).float().mean()),
        "commonest": float(action[held_out].bincount().max() / len(held_out)),
        "sampled": asdict(scores["sampled"]),
        "random": scores["random"].mean,
        "expert": float(expert.episode_return.mean()),
    }


def _train(
    agent: Agent, settings: Config, frames: Tensor, action: Tensor, rows: Tensor, generator: torch.Generator
) -> None:
    compute, policy, online = agent.compute, settings.policy, settings.online
    networks = (agent.encoder, agent.policy, agent.decoder)
    optimizer = compute.optimizer(
        [p for network in networks for p in network.parameters()], policy.learning_rate, policy.weight_decay
    )
    draw = functools.partial(torch.randint, generator=generator, device=frames.device)
    agent.train()
    for _ in range(policy.updates + online.rounds * online.clone_updates):
        index = rows[draw(len(rows), (policy.batch_size,))]
        offset = draw(2 * policy.shift_pad + 1, (policy.batch_size, 2))
        pixels = random_shift(
            frames,
            index[:, None],
            offset,
            pad=policy.shift_pad,
            dtype=compute.dtype,
            memory_format=compute.memory_format,
        )
        with compute.autocast():
            logits = agent.decoder(agent.policy(agent.encoder(pixels))).float()
        loss = F.cross_entropy(logits, action[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    sys.exit(call(main))
