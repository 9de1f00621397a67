"""Behavior cloning on the expert's true actions: an upper bound for cloning from the same videos.

No latent-action method has better labels. If this method fails on a task, the videos, the networks or cloning itself
limit the result. It needs a dataset with labels, which the bundled experts and `videos import --keep-labels` provide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.config.fields import number, setting
from bcvlr_fast.config.presets import Row
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs import spec
from bcvlr_fast.envs.specs import EnvSpec
from bcvlr_fast.methods.actions import action_loss, agreement, agreement_name
from bcvlr_fast.methods.bcvlr.config import EncoderConfig, PolicyConfig
from bcvlr_fast.methods.bcvlr.presets import CONTINUOUS_NETWORKS, QUICK_NETWORKS
from bcvlr_fast.methods.bcvlr.synthetic import random_frames, store_of
from bcvlr_fast.methods.method import LearnerPhase, Phase, Sight, Sources
from bcvlr_fast.methods.networks import check_encoder, network_arguments
from bcvlr_fast.methods.policy import Policy, PolicyCard, build_policy
from bcvlr_fast.methods.work import Costs, Work, seconds_per_interaction, seconds_per_update
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.compute import Compute, configured_compute
from bcvlr_fast.training.learner import Learner, Metrics


@dataclass(frozen=True)
class Config(RunConfig):
    """All settings of a run of behavior cloning on true actions."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    latent_dim: int = number(128, 1, 8192)
    """Width between the policy's trunk and its action decoder, as in BCV-LR."""
    decoder_hidden: tuple[int, ...] = (192, 128, 64)
    """Widths of the hidden layers of the action decoder."""
    anneal: bool = setting(False, before=False)
    """Anneal the learning rate linearly to 0."""


TABLE = (
    Row("paper", "discrete", "*", {"policy.updates": 72_500}, "as many updates as all cloning of BCV-LR"),
    Row(
        "any",
        "continuous",
        "*",
        {
            "episodes": 10,
            **CONTINUOUS_NETWORKS,
            "policy.updates": 110_000,
        },
        "the networks of BCV-LR, and as many updates as all its cloning",
    ),
    Row(
        "quick",
        "any",
        "*",
        {
            **QUICK_NETWORKS,
            "policy.learning_rate": 1e-3,
            "decoder_hidden": (128,),
        },
        "minutes on two CPU cores",
    ),
    Row(
        "quick",
        "discrete",
        "*",
        {
            "optimizer": "muon",
            "expert_frames": 200_000,
            "policy.batch_size": 64,
            "policy.learning_rate": 2e-3,
            "policy.shift_pad": 2,
            "policy.updates": 8600,
            "anneal": True,
        },
        "as in the last phase of BCV-LR",
    ),
    Row(
        "quick",
        "continuous",
        "*",
        {"episodes": 50, "expert_frames": 50_000, "still_share": 0.5, "policy.updates": 8800},
        "as in BCV-LR",
    ),
)

_MEASURED_FRAMES, _MEASURED_ENVS = 2048, 64


class ActionCloning(Learner):
    """Trains all networks of a policy on the expert's actions."""

    name = "action_cloning"

    def __init__(self, config: PolicyConfig, policy: Policy, labels: Tensor, sampler: WindowSampler) -> None:
        """`labels` are the actions at `sampler.centers`, [W] int64 or [W, A] float32."""
        self.config, self.policy, self.labels = config, policy, labels
        optimizer = policy.compute.optimizer(policy.parameters(), config.learning_rate, config.weight_decay)
        super().__init__(config.updates, {"policy": optimizer}, policy.compute, sampler.generator)
        self.batches = Batches(sampler, config.batch_size, self.together, last=0)

    def update(self, number: int) -> Metrics:
        config = self.config
        actions = self.labels[self.batches.rows[number]]
        pixels = self.batches.pixels(
            number, self.policy.compute, shift_pad=config.shift_pad, stack_dropout=config.stack_dropout
        )
        decoded = self.policy.decode(pixels)
        loss = action_loss(decoded, actions)
        self.descend(loss)
        return {"loss": loss, agreement_name(actions.is_floating_point()): agreement(decoded.detach(), actions)}


class BCTrueActions:
    """Behavior cloning on true actions, as a method."""

    sees: ClassVar[Sight] = Sight.VIDEOS | Sight.LABELS
    task_phase: ClassVar[str] = ""
    takes_transitions: ClassVar[bool] = False
    summary: ClassVar[str] = "Learned from expert videos with the expert's true actions, without interaction."

    def __init__(self, config: Config, spec: EnvSpec, compute: Compute, *, restored: bool = False) -> None:
        self.config = config
        self.policy = build_policy(policy_card(config, spec), compute, load=not restored)
        self.agent = self.policy

    @classmethod
    def check(cls, config: Config, spec: EnvSpec, restored: bool) -> None:
        check_encoder(config.encoder, config.frame_stack, spec, restored)

    def phases(self, sources: Sources) -> dict[str, Callable[[], Phase]]:
        assert sources.labels is not None
        labels = sources.labels

        def cloning() -> Phase:
            learner = ActionCloning(self.config.policy, self.policy, labels, sources.videos)
            learner.anneals = self.config.anneal
            return LearnerPhase("action_cloning", "1/1 action cloning", learner)

        return {"action_cloning": cloning}


def policy_card(config: Config, spec: EnvSpec) -> PolicyCard:
    """The card of the policy that a run learns."""
    networks = network_arguments(
        config.encoder, config.policy, config.latent_dim, config.decoder_hidden, spec.actions.size
    )
    return PolicyCard.of(config, spec, networks)


def measure_costs(config: Config, frames: int, settings: Collection[str]) -> Costs:  # noqa: ARG001
    """Times updates on random frames, and a few interactions."""
    compute = configured_compute(config)
    env = spec(config.first_env)
    policy = build_policy(policy_card(config, env), compute)
    store = store_of(random_frames(_MEASURED_FRAMES), compute.device)
    sampler = WindowSampler(store, config.window, torch.Generator(compute.device))
    labels = torch.from_numpy(env.actions.draw(np.random.default_rng(0), len(sampler.centers))).to(compute.device)
    learner = ActionCloning(config.policy, policy, labels, sampler)
    learner.updates = 1 << 40
    work = Work("policy.updates", seconds_per_update(learner), 1.0, 1 << 30)
    return Costs((work,), seconds_per_interaction(policy, _MEASURED_ENVS))
