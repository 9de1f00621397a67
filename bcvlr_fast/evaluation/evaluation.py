"""The scores of a policy beside random play and the expert."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from bcvlr_fast import config
from bcvlr_fast.config import Config
from bcvlr_fast.envs import make, spec
from bcvlr_fast.envs.scoring import Act, Score, play
from bcvlr_fast.envs.stacking import Stacked
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training import checkpoint
from bcvlr_fast.training.compute import choose_compute, choose_device
from bcvlr_fast.videos import labels as evaluation_labels

RESULT = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """Scores by policy (sampled, greedy, random, expert; continuous ones have no sampled), and what they are: return or
    success. `video_norm` is agent / expert."""

    env: str
    seed: int
    scores: dict[str, Score]
    score: str = "return"

    def video_norm(self, policy: str) -> float | None:
        expert = self.scores.get("expert")
        return self.scores[policy].mean / expert.mean if expert and expert.mean else None

    def to_json(self) -> str:
        norms = {p: self.video_norm(p) for p in ("sampled", "greedy") if p in self.scores}
        scores = {k: asdict(v) for k, v in self.scores.items()}
        kept = {"env": self.env, "seed": self.seed, "score": self.score, "scores": scores, "video_norm": norms}
        return json.dumps(kept, indent=1)

    def table(self) -> Table:
        table = Table(title=f"{self.env}: {self.score} over {self.scores['greedy'].episodes} episodes")
        for heading in ("policy", "mean", "standard error", "95 % interval", "length", "agent / expert"):
            table.add_column(heading, justify="left" if heading == "policy" else "right")
        for name, score in self.scores.items():
            norm = self.video_norm(name) if name in ("sampled", "greedy") else None
            table.add_row(
                name,
                f"{score.mean:.2f}",
                f"{score.standard_error:.2f}",
                f"{score.low:.2f} .. {score.high:.2f}",
                "" if score.mean_length_steps is None else f"{score.mean_length_steps:.0f}",
                "" if norm is None else f"{norm:.2f}",
            )
        return table


def load_agent(folder: Path, device: str = "auto") -> tuple[Agent, Config]:
    """The agent of a run's newest checkpoint. Raises UserError where there is none."""
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"run: {folder}: expected a run folder with config.json")
    settings = config.load(file)
    saved, complaints = checkpoint.load_newest(folder / "ckpt")
    if complaints or saved is None:
        raise UserError(f"run: {folder}: {complaints[0] if complaints else 'no checkpoint yet'}")
    compute = choose_compute(choose_device(device), settings.precision)
    agent = Agent(settings, spec(settings.env.split(",")[0]), compute, restored=True)
    saved.get_network("agent", agent)
    return agent, settings


def videos_of(folder: Path) -> Path:
    """The videos that a run learned from. Raises UserError where it does not tell."""
    file = folder / "videos.json"
    try:
        return Path(json.loads(file.read_text())["path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"run: {file}: expected the path of the run's videos ({error})") from None


def evaluate(agent: Agent, settings: Config, episodes: int, seed: int, videos: Path, screen: Screen) -> Evaluation:
    """Plays `episodes` episodes each of the sampled, the greedy and the random policy from the same seeds.

    A continuous policy is not sampled: what it adds to its actions is noise. The random one needs no pictures. The
    expert's score is that of the recorded videos, where their evaluation labels exist.
    """
    device = agent.compute.device
    sampling = torch.Generator(device)
    sampling.manual_seed(seed)
    random = np.random.default_rng(seed)
    policies: dict[str, Act] = {
        "sampled": lambda frames: _act(agent, frames, sampling),
        "greedy": lambda frames: _act(agent, frames, None),
        "random": lambda frames: agent.spec.actions.draw(random, len(frames)),
    }
    if agent.spec.actions.continuous:
        del policies["sampled"]
    scores = {}
    with screen.bar("evaluating", total=len(policies) * episodes, unit="episodes") as bar:
        for name, act in policies.items():
            num_envs = min(episodes, agent.spec.most_envs)
            with contextlib.closing(make_seen(settings, num_envs, seed, blind=name == "random")) as env:
                scores[name] = play(env, act, episodes, bar)
    labels = evaluation_labels.load_labels(videos)
    if labels is not None and np.isfinite(labels.episode_return).all():
        scores["expert"] = Score.of(labels.episode_return)
    return Evaluation(settings.env, seed, scores, agent.spec.score)


def make_seen(settings: Config, num_envs: int, seed: int, level: int | None = None, blind: bool = False) -> Stacked:
    """The environments of a run as its policy sees them."""
    env = make(settings.env, num_envs, seed, level, settings.rendering, blind)
    return Stacked(env, settings.frame_stack)


def _act(agent: Agent, frames: np.ndarray, generator: torch.Generator | None) -> np.ndarray:
    actions: np.ndarray = agent.act(torch.from_numpy(frames).to(agent.compute.device), generator).cpu().numpy()
    return actions
