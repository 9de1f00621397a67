"""BCV-LR as a method: its networks and four phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from bcvlr_fast.envs.specs import EnvSpec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.features import Features
from bcvlr_fast.methods.bcvlr.latent_actions import LatentActions
from bcvlr_fast.methods.bcvlr.online import Online, Rounds
from bcvlr_fast.methods.method import LearnerPhase, Phase, Sight, Sources
from bcvlr_fast.methods.networks import check_encoder
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.loop import Loop


class BCVLR:
    """Behavior Cloning from Videos via Latent Representations (NeurIPS 2025, arXiv 2512.21586)."""

    sees: ClassVar[Sight] = Sight.VIDEOS
    task_phase: ClassVar[str] = "online"
    takes_transitions: ClassVar[bool] = True

    def __init__(self, config: Config, spec: EnvSpec, compute: Compute, *, restored: bool = False) -> None:
        self.config = config
        self.agent = Agent(config, spec, compute, restored=restored)
        self.policy = self.agent.acting_policy()

    @property
    def summary(self) -> str:
        interactions = self.config.online.interactions if self.config.labels is None else 0
        return f"Learned from expert videos (no actions, no rewards) and {interactions:,} reward-free interactions."

    @classmethod
    def check(cls, config: Config, spec: EnvSpec, restored: bool) -> None:
        check_encoder(config.encoder, config.frame_stack, spec, restored)

    def phases(self, sources: Sources) -> dict[str, Callable[[], Phase]]:
        return {
            "features": lambda: self._features(sources),
            "latent_actions": lambda: self._latent_actions(sources),
            "pre_imitation": lambda: self._pre_imitation(sources),
            "online": lambda: self._online(sources),
            "final_cloning": lambda: self._final_cloning(sources),
        }

    def _features(self, sources: Sources) -> Phase:
        config = self.config.features
        learner = None if config.objective == "none" else Features(config, self.agent, sources.videos)
        return LearnerPhase("features", "1/4 features", learner)

    def _latent_actions(self, sources: Sources) -> Phase:
        self.agent.encoder.requires_grad_(False)
        learner = LatentActions(self.config.latent_actions, self.agent, sources.videos)
        return LearnerPhase("latent_actions", "2/4 latent actions", learner)

    def _pre_imitation(self, sources: Sources) -> Phase:
        config = self.config.policy
        learner = self._cloning(sources, config.updates, config.learning_rate)
        return PreImitation("pre_imitation", "3/4 pre-imitation", learner)

    def _online(self, sources: Sources) -> Phase:
        self.agent.encoder.requires_grad_(False)
        if sources.transitions is not None:
            return Rounds(self.config, self.agent, sources.transitions, sources.videos)
        env = sources.make_env(self.config.online.num_envs, self.config.online.interactions)
        return Online(self.config, self.agent, self.policy, env, sources.videos)

    def _final_cloning(self, sources: Sources) -> Phase:
        final = self.config.final
        if not final.updates:
            return LearnerPhase("final_cloning", "", None)
        learner = self._cloning(sources, final.updates, final.learning_rate, final.decoded_weight)
        learner.anneals = True
        return LearnerPhase("final_cloning", "final cloning", learner)

    def _cloning(self, sources: Sources, updates: int, learning_rate: float, decoded_weight: float = 0.0) -> Cloning:
        self.agent.encoder.requires_grad_(False)
        config = self.config.policy
        return Cloning(
            config,
            self.agent,
            sources.videos,
            updates=updates,
            batch_size=config.batch_size,
            learning_rate=learning_rate,
            weight_decay=config.weight_decay,
            decoded_weight=decoded_weight,
        )


class PreImitation(LearnerPhase):
    """Phase 3, with a warning where pi learned nothing."""

    def report(self, loop: Loop, metrics: dict[str, float]) -> None:
        if metrics.get("explained", 1.0) <= 0:
            loop.warn(["the policy explains none of the latent actions' variance"])
