"""The scores of a policy, compared with random play and the expert."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from rich.table import Table

from bcvlr_fast.envs import make, spec
from bcvlr_fast.envs.scoring import Act, Score, play
from bcvlr_fast.envs.stacking import Stacked
from bcvlr_fast.methods.policy import Policy
from bcvlr_fast.system.screen import Screen

RESULT = "evaluation.json"
AGENTS = ("sampled", "greedy", "unstuck")
"""Ways in which a policy acts, by the names of their scores; `unstuck` is `Policy.unstuck`."""
_INTERVAL = 1.96
"""Half width of a 95 % interval, in standard errors."""


class Recovery(NamedTuple):
    """How much of the way from random play to the expert a policy has come, with its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, agent: Score, random: Score, expert: Score) -> Recovery | None:
        """(agent - random) / (expert - random), with the standard error of the three means, to first order.

        None if the expert is no better than random play.
        """
        way = expert.mean - random.mean
        if way <= 0:
            return None
        mean = (agent.mean - random.mean) / way
        parts = (agent.standard_error, (1 - mean) * random.standard_error, mean * expert.standard_error)
        half = _INTERVAL * float(np.linalg.norm(np.nan_to_num(parts))) / way
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Evaluation:
    """Scores by name: those of `AGENTS` (of continuous policies the greedy one alone), random, and expert.

    `score` is their kind: return or success.
    """

    env: str
    seed: int
    scores: dict[str, Score]
    score: str = "return"

    def video_norm(self, policy: str) -> float | None:
        """The policy's mean score divided by the expert's; None where the expert's is unknown or zero."""
        expert = self.scores.get("expert")
        return self.scores[policy].mean / expert.mean if expert and expert.mean else None

    def recovery(self, policy: str) -> Recovery | None:
        """The policy's recovery; None where the expert is unknown or no better than random play."""
        expert = self.scores.get("expert")
        return Recovery.of(self.scores[policy], self.scores["random"], expert) if expert else None

    def to_json(self) -> str:
        agents = [policy for policy in AGENTS if policy in self.scores]
        recovery = {policy: self.recovery(policy) for policy in agents}
        kept = {
            "env": self.env,
            "seed": self.seed,
            "score": self.score,
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "video_norm": {policy: self.video_norm(policy) for policy in agents},
            "recovery": {policy: found._asdict() if found else None for policy, found in recovery.items()},
        }
        return json.dumps(kept, indent=1)

    def table(self) -> Table:
        table = Table(title=f"{self.env}: {self.score} over {self.scores['greedy'].episodes} episodes")
        for heading in ("policy", "mean", "standard error", "95 % interval", "length", "agent / expert", "recovery"):
            table.add_column(heading, justify="left" if heading == "policy" else "right")
        for name, score in self.scores.items():
            agent = name in AGENTS
            norm, recovery = (self.video_norm(name), self.recovery(name)) if agent else (None, None)
            table.add_row(
                name,
                f"{score.mean:.2f}",
                f"{score.standard_error:.2f}",
                f"{score.low:.2f} .. {score.high:.2f}",
                "" if score.mean_length_steps is None else f"{score.mean_length_steps:.0f}",
                "" if norm is None else f"{norm:.2f}",
                "" if recovery is None else f"{recovery.mean:.2f} ({recovery.low:.2f} .. {recovery.high:.2f})",
            )
        return table


def evaluate(
    policy: Policy, episodes: int, seed: int, screen: Screen, expert_scores: np.ndarray | None = None
) -> Evaluation:
    """Plays `episodes` episodes each of the policy as each of `AGENTS` and of random play, from the same seeds.

    A continuous policy is greedy only: sampling adds noise to its actions, and it does not get stuck. Random play runs
    without rendering. `expert_scores` [E] are the scores of the expert's recorded episodes, where they are known.
    """
    sampling = torch.Generator(policy.compute.device)
    sampling.manual_seed(seed)
    random = np.random.default_rng(seed)
    actions, task = policy.card.actions, spec(policy.card.env)
    num_envs = min(episodes, task.max_envs)
    acts: dict[str, Act] = {"greedy": lambda turn: policy.act(turn.frames)}
    if not actions.continuous:
        unstuck = policy.unstuck(num_envs, seed)
        acts["sampled"] = lambda turn: policy.act(turn.frames, sampling)
        acts["unstuck"] = lambda turn: unstuck.act(*turn)
    acts["random"] = lambda turn: actions.draw(random, len(turn.frames))
    scores = {}
    with screen.bar("evaluating", total=len(acts) * episodes, unit="episodes") as bar:
        for name, act in acts.items():
            with contextlib.closing(make_observed(policy, num_envs, seed, blind=name == "random")) as env:
                scores[name] = play(env, act, episodes, bar)
    if expert_scores is not None and np.isfinite(expert_scores).all():
        scores["expert"] = Score.of(expert_scores)
    return Evaluation(policy.card.env, seed, scores, task.score)


def make_observed(policy: Policy, num_envs: int, seed: int, level: int | None = None, blind: bool = False) -> Stacked:
    """The environments that a policy was learned for, as it observes them."""
    card = policy.card
    return Stacked(make(card.env, num_envs, seed, level, card.rendering, blind), card.frame_stack)
