"""The training phases on random frames, each from the same state every time."""

from __future__ import annotations

import numpy as np
import torch

from bcvlr_fast.config import Config
from bcvlr_fast.data.frames import FrameStore, WindowSampler
from bcvlr_fast.data.replay import Replay, ReplaySampler
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.features import Features
from bcvlr_fast.methods.bcvlr.finetuning import Finetuning
from bcvlr_fast.methods.bcvlr.latent_actions import LatentActions
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.learner import Stage

PHASES = ("features", "latent actions", "cloning", "fine-tuning")
"""Cloning is that of the online rounds, which labels its own windows; `pre-imitation` labels all windows first."""
FRAME, EPISODE = (3, 64, 64), 512


def random_frames(count: int) -> np.ndarray:
    """[count, 3, 64, 64] uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, *FRAME), dtype=np.uint8)


def store_of(frames: np.ndarray, device: torch.device, budget_gb: float = 0.0) -> FrameStore:
    """The frames, in episodes of 512; streamed where they exceed the budget, if that is above 0."""
    lengths = np.full(-(-len(frames) // EPISODE), EPISODE)
    lengths[-1] -= lengths.sum() - len(frames)
    return FrameStore.from_episodes(frames, lengths, device, budget_gb)


def stage_of(
    phase: str,
    config: Config,
    compute: Compute,
    store: FrameStore,
) -> Stage:
    """The phase, ready for its first step, without an end; fine-tuning learns from random actions."""
    torch.manual_seed(0)
    agent = Agent(config, spec(config.env), compute)
    generator = torch.Generator(compute.device).manual_seed(1)
    latent, online = config.latent_actions, config.online
    sampler = WindowSampler(store, latent.past_frames, latent.future_frames, generator, stack=config.frame_stack)
    stage: Stage
    if phase == "features":
        stage = Features(config.features, agent.encoder, sampler, compute)
    else:
        agent.encoder.requires_grad_(False)
        rates = {
            "predictor": online.predictor_learning_rate,
            "decoder": online.decoder_learning_rate,
            "policy": config.policy.learning_rate if phase == "pre-imitation" else online.clone_learning_rate,
        }
        optimizers = {n: compute.optimizer(getattr(agent, n).parameters(), rate) for n, rate in rates.items()}
        if phase == "latent actions":
            learned = agent.predictor, agent.codebook, agent.world_model
            stage = LatentActions(latent, agent.encoder, *learned, sampler, compute)
        elif phase in ("cloning", "pre-imitation"):
            networks = agent.encoder, agent.predictor, agent.policy
            updates = config.policy.updates if phase == "pre-imitation" else 1  # 1: too few to label all
            size = config.policy.batch_size if phase == "pre-imitation" else online.clone_batch_size
            stage = Cloning(updates, size, config.policy, optimizers["policy"], *networks, sampler, compute)
        else:
            own = {name: optimizers[name] for name in ("predictor", "decoder")}
            agent.world_model.requires_grad_(online.world_model_learning_rate > 0)
            if online.world_model_learning_rate:
                world_model = agent.world_model.parameters()
                own["world_model"] = compute.optimizer(world_model, online.world_model_learning_rate)
            stage = Finetuning(config, agent, own, _own_windows(store, config, generator))
    stage.updates = 1 << 40
    return stage


def _own_windows(store: FrameStore, config: Config, generator: torch.Generator) -> ReplaySampler:
    """As many of the frames as the replay holds, with random actions."""
    count = min(config.online.capacity, len(store.frames))
    env = spec(config.env)
    replay = Replay(count - 1, 1, env, store.device)
    replay.store.frames.copy_(store.frames[:count])
    replay.store.position[:], replay.store.age[:] = store.position[:count], store.age[:count]
    replay.acted[:] = True
    replay.action[:] = env.actions.draw(np.random.default_rng(1), count)
    latent = config.latent_actions
    own = ReplaySampler(replay, latent.past_frames, latent.future_frames, generator, config.frame_stack)
    assert own.refresh()
    return own
