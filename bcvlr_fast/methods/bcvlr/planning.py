"""What the updates of BCV-LR cost on this machine, and how a run of given time is divided over its phases."""

from __future__ import annotations

from typing import NamedTuple

from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.synthetic import PHASES, learner_of, random_frames, store_of
from bcvlr_fast.methods.work import Costs, Work, seconds_per_interaction, seconds_per_update
from bcvlr_fast.training.compute import configured_compute

_MEASURED_FRAMES = 2048
_LABELED_AT_ONCE = 500_000
"""Frames that the last phase of a run of 15 minutes draws, about."""


class _Share(NamedTuple):
    share: float
    max: int = 1 << 30


_DISCRETE = {
    "features.updates": _Share(0.03, 1000),
    "latent_actions.updates": _Share(0.03, 3000),
    "policy.updates": _Share(0.02, 1000),
    "online.finetune_updates": _Share(0.24, 1000),
    "online.clone_updates": _Share(0.16, 800),
    "final.updates": _Share(0.52),
}
_CONTINUOUS = {
    "features.updates": _Share(0.02, 2000),
    "latent_actions.updates": _Share(0.15, 3000),
    "policy.updates": _Share(0.07, 5000),
    "online.finetune_updates": _Share(0.20, 4000),
    "online.clone_updates": _Share(0.56),
}
"""Parts of the learning time by setting, and the counts beyond which more teaches nothing."""


def measure_costs(config: Config, frames: int) -> Costs:
    """Times the learners on random frames, and a few interactions.

    The last phase labels all `frames` frames at once, unless they are more than it is likely to draw.
    """
    compute = configured_compute(config)
    env, online, tasks = spec(config.first_env), config.online, len(config.env)  # tasks share a pretraining
    at_once = frames <= _LABELED_AT_ONCE
    store = store_of(random_frames(_MEASURED_FRAMES), compute.device)
    cost = {
        phase: seconds_per_update(learner_of(phase, config, compute, store)) for phase in (*PHASES, "final cloning")
    }
    cost_s = {
        "features.updates": cost["features"],
        "latent_actions.updates": cost["latent actions"],
        "policy.updates": cost["cloning"],
        "online.finetune_updates": tasks * online.rounds * cost["fine-tuning"],
        "online.clone_updates": tasks * online.rounds * cost["cloning"],
        "final.updates": tasks * cost["final cloning" if at_once else "cloning"],
    }
    shares = _CONTINUOUS if env.actions.continuous else _DISCRETE
    work = tuple(Work(name, cost_s[name], share.share, share.max) for name, share in shares.items())
    step_s = seconds_per_interaction(Agent(config, env, compute).acting_policy(), online.num_envs)
    label_s = max(0.0, cost["cloning"] - cost["final cloning"]) / online.clone_batch_size
    labels_s = frames * label_s if at_once and "final.updates" in shares else 0.0
    return Costs(work, labels_s + tasks * online.interactions * step_s, step_s)
