"""The work of a run as counts of updates, each with its cost: what a time limit is divided over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from bcvlr_fast.envs import make
from bcvlr_fast.envs.stacking import Stacked
from bcvlr_fast.methods.policy import Policy
from bcvlr_fast.training.learner import Learner

_MEASURED_S = 1.5
_MIN_MEASURED_STEPS = 2
_MEASURED_INTERACTIONS = 20


class Work(NamedTuple):
    """Updates whose number is one setting."""

    setting: str
    """Dotted name."""
    cost_s: float
    """Time of the whole run that one more of it takes."""
    share: float
    """Part of the learning time that it gets."""
    max: int
    """More of it teaches nothing."""


class Costs(NamedTuple):
    """What a method's learning takes on this machine."""

    work: tuple[Work, ...]
    interaction_s: float
    """Time of a step of an environment and of the policy that chooses its action."""
    interactions_s: float = 0.0
    """Time of all interactions."""
    labels_s: float = 0.0
    """Time of the labels of the last phase, which its updates do not include."""


MeasureCosts = Callable[[Any, int, Collection[str]], Costs]
"""(configuration, frames to learn from, settings) -> costs of the updates that these settings count, by dotted name,
measured with the networks of the configuration."""


def divide(work: Sequence[Work], seconds: float, given: Mapping[str, int]) -> dict[str, int]:
    """Counts by setting that take `seconds` in all; those in `given` are kept.

    What is left over by a maximum goes to the others in proportion to their shares. Every count is at least one.
    """
    counts = dict(given)
    left = seconds - sum(each.cost_s * given[each.setting] for each in work if each.setting in given)
    open_ = [each for each in work if each.setting not in given]
    while open_:
        shares = sum(each.share for each in open_)
        full = [each for each in open_ if left * each.share / shares >= each.max * each.cost_s]
        if not full:
            counts |= {w.setting: max(1, int(left * w.share / shares / w.cost_s)) for w in open_}
            break
        counts |= {each.setting: each.max for each in full}
        left -= sum(each.max * each.cost_s for each in full)
        open_ = [each for each in open_ if each not in full]
    return {each.setting: counts[each.setting] for each in work}


def seconds_per_update(learner: Learner) -> float:
    """Measures a learner with unlimited updates, after one step of warming up."""
    learner.step()
    steps, start = 0, time.perf_counter()
    while steps < _MIN_MEASURED_STEPS or time.perf_counter() - start < _MEASURED_S:
        learner.step()
        steps += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps / learner.together


def seconds_per_interaction(policy: Policy, num_envs: int) -> float:
    """Measures an environment step together with the policy's choice of its action."""
    card = policy.card
    generator = torch.Generator(policy.compute.device).manual_seed(0)
    env = Stacked(make(card.env, num_envs, 0, rendering=card.rendering), card.frame_stack)
    with contextlib.closing(env):
        frames = env.reset()
        start = time.perf_counter()
        for _ in range(_MEASURED_INTERACTIONS):
            frames = env.step(policy.act(frames, generator)).next_frames()
        return (time.perf_counter() - start) / (_MEASURED_INTERACTIONS * num_envs)
