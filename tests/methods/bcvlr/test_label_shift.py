"""Correction of d for the frequencies of the expert's actions."""

import numpy as np
import torch

from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.label_shift import correct_label_shift, expert_frequencies
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.training.compute import Compute

FP32 = Compute(torch.device("cpu"), torch.float32)
EXPERT = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64)


def test_frequencies_are_those_of_the_expert() -> None:
    """Windows that show the action, or one that it is often mistaken for, at known odds."""
    rng = np.random.default_rng(0)
    own = torch.full((4,), 0.25, dtype=torch.float64)
    seen_as = torch.full((4, 4), 0.05, dtype=torch.float64).fill_diagonal_(0.85)  # [true, seen]
    true = torch.from_numpy(rng.choice(4, 20_000, p=EXPERT.numpy()))
    seen = torch.tensor([rng.choice(4, p=seen_as[action].numpy()) for action in true])
    posterior = (own[:, None] * seen_as)[:, seen].T
    posterior /= posterior.sum(dim=1, keepdim=True)
    found = expert_frequencies(posterior, own)
    torch.testing.assert_close(found, EXPERT, atol=0.02, rtol=0)
    assert (posterior.mean(dim=0) - EXPERT).abs().max() > 0.1
    corrected = posterior * (found / own)
    corrected /= corrected.sum(dim=1, keepdim=True)
    before, after = (-each[torch.arange(len(true)), true].log().mean() for each in (posterior, corrected))
    assert after < 0.85 * before


def test_frequencies_stay_where_windows_tell_nothing() -> None:
    own = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    torch.testing.assert_close(expert_frequencies(own.repeat(7, 1), own), own)


def test_the_logits_of_d_move_by_the_same_amount_everywhere() -> None:
    torch.manual_seed(0)
    agent = Agent(preset("procgen:bossfight", "quick"), spec("procgen:bossfight"), FP32)
    frames = np.random.default_rng(0).integers(0, 256, (60, 3, 64, 64), dtype=np.uint8)
    store = FrameStore.from_episodes(frames, np.array([25, 35]), FP32.device)
    videos = WindowSampler(store, agent.window, torch.Generator())
    own = torch.arange(15).repeat(10)
    z = torch.randn(5, agent.config.latent_actions.latent_dim)
    before = agent.decode(z)
    frequencies = correct_label_shift(agent, videos, own)
    torch.testing.assert_close(frequencies.sum(), torch.tensor(1.0, dtype=torch.float64))
    moved = agent.decode(z) - before
    expected = (15 * frequencies).log().float()
    torch.testing.assert_close(moved, expected.expand(5, -1), atol=1e-5, rtol=1e-4)
