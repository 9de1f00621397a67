"""Held-out diagnostics for each phase, with a warning when one looks broken."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.methods.actions import variance_explained
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.latent_actions import copy_error, prediction_error
from bcvlr_fast.methods.policy import Policy

_BATCH = 256
_MAX_WINDOWS = 4096
_MIN_SPREAD = 1e-5


@dataclass(frozen=True)
class HeldOut:
    """Held-out windows, and the expert's true actions on them where labels exist."""

    sampler: WindowSampler
    action: np.ndarray | None
    """[N] integers, or [N, A] float32 of continuous actions, for each frame of the held-out store."""

    def centers(self) -> Tensor:
        """Up to 4,096 window centers, evenly spaced."""
        centers = self.sampler.centers
        stride = max(1, -(-len(centers) // _MAX_WINDOWS))
        return centers[::stride]

    def true_actions(self) -> Tensor | None:
        """[W] int64, or [W, A] float32, at `centers`."""
        if self.action is None:
            return None
        continuous = self.action.ndim == 2
        return torch.from_numpy(self.action if continuous else self.action.astype(np.int64))[self.centers().cpu()]


@dataclass(frozen=True)
class LatentReport:
    """Metrics of p, the codebook and w on held-out windows."""

    prediction_error: float
    copy_error: float
    spread: float
    """Standard deviation of z over the windows, averaged over its dimensions."""
    code_use: np.ndarray
    """[K, M] fraction of latent actions that use each code of each codebook."""
    probe: float | None
    """Linear readout of true actions from z: mean recall of discrete actions, or variance explained of continuous ones;
    None without labels."""
    probe_chance: float
    """The probe's value at chance level."""
    probe_kind: str = "mean_recall"

    @property
    def error_of_copy(self) -> float:
        """The world model's error divided by the error of copying the last frame."""
        return self.prediction_error / max(self.copy_error, 1e-12)

    @property
    def perplexity(self) -> float:
        """Perplexity of code use, averaged over the codebooks."""
        return float(np.exp(-(self.code_use * np.log(self.code_use + 1e-10)).sum(axis=1)).mean())

    @property
    def dead_codes(self) -> int:
        return int((self.code_use == 0).sum())

    @property
    def codes(self) -> int:
        return self.code_use.size

    def metrics(self) -> dict[str, float]:
        names = (
            "prediction_error",
            "copy_error",
            "spread",
            "perplexity",
            "dead_codes",
            "codes",
            "probe",
            "probe_chance",
        )
        return {name: float(getattr(self, name)) for name in names if getattr(self, name) is not None}

    def describe_probe(self) -> str:
        """The value of the probe and its chance level, as text."""
        return f"probe {self.probe_kind.replace('_', ' ')} {self.probe:.0%}, chance {self.probe_chance:.0%}"

    def warnings(self) -> list[str]:
        lines = []
        if self.prediction_error >= self.copy_error:
            lines.append(
                f"the world model predicts no better than a copy of the last frame "
                f"({self.prediction_error:.2e} against {self.copy_error:.2e})"
            )
        if self.spread < _MIN_SPREAD:
            lines.append(f"the predictor gives every window the same latent action (spread {self.spread:.0e})")
        elif self.perplexity < 2:
            lines.append(f"the codebook has collapsed (perplexity {self.perplexity:.1f})")
        elif self.dead_codes > 0.75 * self.codes:
            lines.append(f"{self.dead_codes} of {self.codes} codes are unused on held-out frames")
        if self.probe is not None and self.probe < self.probe_chance:
            lines.append(f"latent actions do not separate true actions ({self.describe_probe()})")
        return lines


@torch.no_grad()
def latent_report(agent: Agent, held_out: HeldOut) -> LatentReport:
    """Metrics of p, the codebook and w over the held-out windows."""
    latents, errors, copies = [], [], []
    for centers in held_out.centers().split(_BATCH):
        features = agent.frame_features(*held_out.sampler.take(centers))
        latents.append(agent.latent_action(features))
        errors.append(prediction_error(agent, features, agent.codebook(latents[-1])) * len(centers))
        copies.append(copy_error(agent, features) * len(centers))
    z = torch.cat(latents)
    chosen = agent.codebook(z).indices.unbind(1)
    shares = [i.reshape(-1).bincount(minlength=agent.codebook.codes.shape[1]) / i.numel() for i in chosen]
    truth = held_out.true_actions()
    probed, chance, kind = None, 0.0, "mean_recall"
    if truth is not None and truth.is_floating_point():
        probed, kind = probe_explained(z.cpu(), truth), "variance_explained"
    elif truth is not None:
        probed, chance = probe_recall(z.cpu(), truth)
    return LatentReport(
        prediction_error=float(torch.stack(errors).sum()) / len(z),
        copy_error=float(torch.stack(copies).sum()) / len(z),
        spread=float(z.std(dim=0).mean()),
        code_use=torch.stack(shares).cpu().numpy(),
        probe=probed,
        probe_chance=chance,
        probe_kind=kind,
    )


def probe_explained(z: Tensor, truth: Tensor) -> float:
    """Fraction of the variance of continuous actions truth [W, A] that a ridge regression from z [W, D] explains.

    It is fitted and scored on alternate blocks of windows, as in `probe_recall`.
    """
    fit = _alternate(len(z))
    z = (z - z[fit].mean(dim=0)) / (z[fit].std(dim=0) + 1e-6)
    x = torch.cat([z, torch.ones(len(z), 1)], dim=1).double()
    y = truth.double()
    gram = x[fit].T @ x[fit] / fit.sum() + 1e-3 * torch.eye(x.shape[1], dtype=torch.float64)
    readout = torch.linalg.solve(gram, x[fit].T @ y[fit] / fit.sum())
    return float(variance_explained(x[~fit] @ readout, y[~fit]))


def _alternate(windows: int) -> Tensor:
    """[windows] bool: every other block of 64."""
    return (torch.arange(windows) // 64) % 2 == 0


def probe_recall(z: Tensor, truth: Tensor) -> tuple[float, float]:
    """(mean recall over actions, chance level) of a ridge classifier from latent actions z [W, D] to truth [W].

    Every action has the same weight, however rare. The classifier is fitted on alternate blocks of 64 windows and
    scored on the others, because neighbors in time look alike; actions that one side lacks are skipped.
    """
    fit = _alternate(len(z))
    actions = [a for a in truth.unique() if (truth[fit] == a).any() and (truth[~fit] == a).any()]
    if not actions:
        return float("nan"), float("nan")
    z = (z - z[fit].mean(dim=0)) / (z[fit].std(dim=0) + 1e-6)
    x = torch.cat([z, torch.ones(len(z), 1)], dim=1).double()
    y = torch.stack([truth == a for a in actions], dim=1).double()
    weight = (y[fit] / y[fit].sum(dim=0)).sum(dim=1, keepdim=True)  # [fit, 1]
    gram = (x[fit] * weight).T @ x[fit] + 1e-2 * torch.eye(x.shape[1], dtype=torch.float64)
    readout = torch.linalg.solve(gram, (x[fit] * weight).T @ y[fit])
    chosen = (x @ readout).argmax(dim=1)
    recalls = [(chosen[~fit & (truth == a)] == i).double().mean() for i, a in enumerate(actions)]
    return float(torch.stack(recalls).mean()), 1 / len(actions)


@dataclass(frozen=True)
class DiscreteReport:
    """Agreement of actions decoded for held-out expert frames with the true actions."""

    policy_accuracy: float
    """Accuracy of the policy's greedy actions."""
    confusion: list[list[int]]
    """Counts by [true action][decoded action], of the labels d(p(window)), or of the policy where there are none."""
    labelling_accuracy: float | None = None
    """Accuracy of the labels d(p(window)) that the policy learns from; None for methods without such labels."""

    @property
    def labelling_information(self) -> float:
        """Mutual information of true and decoded actions divided by the entropy of the true ones.

        0 is chance and 1 is all, whichever of several equivalent actions is decoded.
        """
        joint = np.array(self.confusion, np.float64)
        joint /= joint.sum()
        true, decoded = joint.sum(axis=1), joint.sum(axis=0)
        entropy = -float((true[true > 0] * np.log(true[true > 0])).sum())
        where = joint > 0
        information = float((joint[where] * np.log((joint / np.outer(true, decoded).clip(1e-12))[where])).sum())
        return information / entropy if entropy > 0 else 0.0

    def metrics(self) -> dict[str, float]:
        true = np.array(self.confusion).sum(axis=1)
        values = {"policy_accuracy": self.policy_accuracy, "commonest_action": float(true.max() / true.sum())}
        if self.labelling_accuracy is not None:
            values["labelling_accuracy"] = self.labelling_accuracy
            values["labelling_information"] = self.labelling_information
        return values


@dataclass(frozen=True)
class ContinuousReport:
    """Fraction of the variance of true actions that actions decoded for held-out expert frames explain."""

    policy_explained: float
    """By the policy's greedy actions."""
    labelling_explained: float | None = None
    """By the labels d(p(window)) that the policy learns from; None for methods without such labels."""

    def metrics(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}


Agreement = DiscreteReport | ContinuousReport


@torch.no_grad()
def action_report(policy: Policy, held_out: HeldOut, agent: Agent | None = None) -> Agreement | None:
    """Compares the policy's actions, and the labels d(p(window)) of `agent` if given, with the true actions; None
    without labels."""
    truth = held_out.true_actions()
    if truth is None or len(truth) == 0:
        return None
    labels, acts = [], []
    for centers in held_out.centers().split(_BATCH):
        acts.append(policy(held_out.sampler.observations(centers)).cpu())
        if agent is not None:
            features = agent.frame_features(*held_out.sampler.take(centers))
            labels.append(agent.decode(agent.latent_action(features)).cpu())
    acted, labeled = torch.cat(acts), torch.cat(labels) if labels else None
    if truth.is_floating_point():
        explained = [None if v is None else float(variance_explained(v.clamp(-1, 1), truth)) for v in (acted, labeled)]
        assert explained[0] is not None
        return ContinuousReport(explained[0], explained[1])
    chosen = acted.argmax(dim=1)
    decoded = chosen if labeled is None else labeled.argmax(dim=1)
    size = policy.card.actions.size
    confusion = (truth * size + decoded).bincount(minlength=size**2).view(size, -1)
    accuracy = None if labeled is None else float((decoded == truth).float().mean())
    return DiscreteReport(float((chosen == truth).float().mean()), confusion.tolist(), accuracy)
