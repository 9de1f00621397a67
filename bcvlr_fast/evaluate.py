"""Scores a run's policy beside the random policy and the expert.

python -m bcvlr_fast.evaluate runs/procgen-bossfight/20260101-120000-s0 --episodes 100
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.table import Table

from bcvlr_fast import checkpoint, config, evaluation_labels
from bcvlr_fast.agent import Agent
from bcvlr_fast.command import run_command
from bcvlr_fast.compute import choose_compute, choose_device
from bcvlr_fast.config import Config
from bcvlr_fast.envs import PixelEnv, make, spec
from bcvlr_fast.envs.stacking import Stacked
from bcvlr_fast.errors import UserError
from bcvlr_fast.screen import Bar, Screen

RESULT = "evaluation.json"
EVALUATION_SEED = 2**30  # environments of training are seeded below it
_RESAMPLES = 10_000
_DRAWN_AT_ONCE = 4_000_000
Act = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Arguments:
    """Score the sampled and the greedy policy of a run, the random policy and the expert."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    episodes: int = 100
    seed: int = EVALUATION_SEED
    """Seed of the environments: levels come from the full distribution."""
    device: str = "auto"


@dataclass(frozen=True)
class Score:
    """Mean score of some episodes, its standard error and 95 % confidence interval (bootstrap percentiles)."""

    mean: float
    standard_error: float
    low: float
    high: float
    episodes: int
    mean_length_steps: float | None = None

    @classmethod
    def of(cls, scores: np.ndarray, lengths: np.ndarray | None = None) -> Score:
        """From the scores [E] of E episodes, and their lengths [E] in steps."""
        scores = np.asarray(scores, np.float64)
        rng = np.random.default_rng(0)
        block = max(1, _DRAWN_AT_ONCE // len(scores))
        blocks = [min(block, _RESAMPLES - done) for done in range(0, _RESAMPLES, block)]
        means = np.concatenate([rng.choice(scores, (rows, len(scores))).mean(axis=1) for rows in blocks])
        low, high = np.percentile(means, [2.5, 97.5])
        error = scores.std(ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
        length = None if lengths is None else float(np.mean(lengths))
        return cls(float(scores.mean()), float(error), float(low), float(high), len(scores), length)


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


def main(arguments: Arguments) -> None:
    """The command."""
    if arguments.episodes < 1:
        raise UserError(f"episodes: expected >= 1, got {arguments.episodes}")
    if not 0 <= arguments.seed < 2**31:
        raise UserError(f"seed: expected 0 <= value < 2^31, got {arguments.seed}")
    screen = Screen()
    agent, settings = load_agent(arguments.run, arguments.device)
    evaluation = evaluate(agent, settings, arguments.episodes, arguments.seed, videos_of(arguments.run), screen)
    (arguments.run / RESULT).write_text(evaluation.to_json())
    screen.table(evaluation.table())
    screen.say(f"scores: {arguments.run / RESULT}")


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
    labels = evaluation_labels.load(videos)
    if labels is not None and np.isfinite(labels.episode_return).all():
        scores["expert"] = Score.of(labels.episode_return)
    return Evaluation(settings.env, seed, scores, agent.spec.score)


def make_seen(settings: Config, num_envs: int, seed: int, level: int | None = None, blind: bool = False) -> Stacked:
    """The environments of a run as its policy sees them."""
    env = make(settings.env, num_envs, seed, level, settings.rendering, blind)
    return Stacked(env, settings.frame_stack)


def play(env: PixelEnv, act: Act, episodes: int, bar: Bar | None = None) -> Score:
    """Score of `episodes` episodes, their number in each environment fixed beforehand.

    Taking the first to finish instead would favour short episodes.
    """
    quota = np.full(env.num_envs, episodes // env.num_envs)
    quota[: episodes % env.num_envs] += 1
    frames = env.reset()
    scores, lengths = [], []
    active = np.flatnonzero(quota)
    while len(active):
        step = env.step(act(frames[active]), active)
        frames[active] = step.next_frames()
        for episode in env.pop_episodes():
            scores.append(episode.score)
            lengths.append(episode.length_steps)
            quota[episode.env] -= 1
            if bar:
                bar.advance()
        active = np.flatnonzero(quota)
    return Score.of(np.array(scores), np.array(lengths))


def _act(agent: Agent, frames: np.ndarray, generator: torch.Generator | None) -> np.ndarray:
    actions: np.ndarray = agent.act(torch.from_numpy(frames).to(agent.compute.device), generator).cpu().numpy()
    return actions


if __name__ == "__main__":
    run_command(main, Arguments)
