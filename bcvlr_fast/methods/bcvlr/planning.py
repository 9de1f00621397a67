"""What the updates of BCV-LR cost on this machine, and how a run of given time is divided over its phases."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.synthetic import learner_of, random_frames, store_of
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


_PHASE_OF = {
    "features.updates": "features",
    "latent_actions.updates": "latent actions",
    "policy.updates": "cloning",
    "online.finetune_updates": "fine-tuning",
    "online.clone_updates": "cloning",
    "final.updates": "final cloning",
}


def measure_costs(config: Config, frames: int, settings: Collection[str]) -> Costs:
    """Times the learners of `settings` on random frames, and a few interactions.

    The last phase labels all `frames` frames at once, unless they are more than it is likely to draw.
    """
    compute = configured_compute(config)
    env, online, tasks = spec(config.first_env), config.online, len(config.env)  # tasks share a pretraining
    shares = _CONTINUOUS if env.actions.continuous else _DISCRETE
    phases = {name: _PHASE_OF[name] for name in shares if name in settings}
    if "final.updates" in phases and frames > _LABELED_AT_ONCE:
        phases["final.updates"] = "cloning"
    store = store_of(random_frames(_MEASURED_FRAMES), compute.device)
    cost_s = {
        phase: seconds_per_update(learner_of(phase, config, compute, store))
        for phase in dict.fromkeys([*phases.values(), "cloning"])
    }
    rounds = tasks * online.rounds
    times = {"online.finetune_updates": rounds, "online.clone_updates": rounds, "final.updates": tasks}
    work = tuple(Work(name, times.get(name, 1) * cost_s[phase], *shares[name]) for name, phase in phases.items())
    step_s = seconds_per_interaction(Agent(config, env, compute).acting_policy(), online.num_envs)
    label_s = (cost_s["cloning"] - cost_s.get("final cloning", cost_s["cloning"])) / online.clone_batch_size
    return Costs(work, step_s, tasks * online.interactions * step_s, frames * max(0.0, label_s))
