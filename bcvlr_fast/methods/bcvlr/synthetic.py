"""Learners on random frames, always in the same initial state, for benchmarks, profiles and tests of updates."""

from __future__ import annotations

import numpy as np
import torch

from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.replay import Replay, ReplaySampler
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs import spec
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.features import Features
from bcvlr_fast.methods.bcvlr.finetuning import Finetuning
from bcvlr_fast.methods.bcvlr.latent_actions import LatentActions
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.learner import Learner

PHASES = ("features", "latent actions", "cloning", "fine-tuning")
"""`cloning` is that of the online rounds, which labels the windows of a step; `pre-imitation` and `final cloning` label
all windows."""
_EPISODE_FRAMES = 512


def random_frames(count: int) -> np.ndarray:
    """[count, 3, 64, 64] uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, *FRAME_SHAPE), dtype=np.uint8)


def store_of(frames: np.ndarray, device: torch.device, budget_gb: float = 0.0) -> FrameStore:
    """A store of the frames in episodes of 512, streamed if they exceed a positive budget."""
    lengths = np.full(-(-len(frames) // _EPISODE_FRAMES), _EPISODE_FRAMES)
    lengths[-1] -= lengths.sum() - len(frames)
    return FrameStore.from_episodes(frames, lengths, device, budget_gb)


def learner_of(
    phase: str, config: Config, compute: Compute, store: FrameStore, seed: int = 0, actions: np.ndarray | None = None
) -> Learner:
    """The learner of a phase before its first step, with practically unlimited updates.

    Fine-tuning learns from `actions` [N], which are random by default.
    """
    torch.manual_seed(seed)
    agent = Agent(config, spec(config.first_env), compute)
    generator = torch.Generator(compute.device).manual_seed(seed + 1)
    sampler = WindowSampler(store, config.window, generator)
    if phase != "features":
        agent.encoder.requires_grad_(False)
    learner: Learner
    if phase == "features":
        learner = Features(config.features, agent, sampler)
    elif phase == "latent actions":
        learner = LatentActions(config.latent_actions, agent, sampler)
    elif phase == "fine-tuning":
        learner = Finetuning(config, agent, _own_windows(store, config, generator, actions))
    else:
        policy, online, in_rounds = config.policy, config.online, phase == "cloning"
        learner = Cloning(
            policy,
            agent,
            sampler,
            updates=1 if in_rounds else policy.updates,  # 1: too few to label all windows
            batch_size=online.clone_batch_size if in_rounds else policy.batch_size,
            learning_rate=online.clone_learning_rate if in_rounds else policy.learning_rate,
            decoded_weight=config.final.decoded_weight if phase == "final cloning" else 0.0,
        )
    learner.updates = 1 << 40
    return learner


def _own_windows(
    store: FrameStore, config: Config, generator: torch.Generator, actions: np.ndarray | None
) -> ReplaySampler:
    """Own transitions of as many frames as the replay holds, with the given or random actions."""
    count = min(config.online.capacity, len(store.frames))
    env = spec(config.first_env)
    replay = Replay(count - 1, 1, env, store.device)
    replay.store.frames.copy_(store.frames[:count])
    replay.store.position[:], replay.store.age[:] = store.position[:count], store.age[:count]
    replay.acted[:] = True
    replay.action[:] = env.actions.draw(np.random.default_rng(1), count) if actions is None else actions[:count]
    own = ReplaySampler(replay, config.window, generator)
    assert own.refresh()
    return own
