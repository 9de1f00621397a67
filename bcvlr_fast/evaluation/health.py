"""Is a phase doing its work? Figures on held-out frames, and one line where something looks broken."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.config import Config
from bcvlr_fast.data.frames import FrameStore, WindowSampler
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import variance_explained
from bcvlr_fast.methods.bcvlr.latent_actions import copy_error, frame_features, predict_next
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.videos import ExpertVideos
from bcvlr_fast.videos import labels as evaluation_labels

_BATCH = 256
_MOST_WINDOWS = 4096
_LEAST_SPREAD = 1e-5


@dataclass(frozen=True)
class HeldOut:
    """Held-out windows, and the expert's true actions on them where labels exist (evaluation only)."""

    sampler: WindowSampler
    action: np.ndarray | None
    """[N] uint8, or [N, A] float32 of continuous ones, for each frame of the held-out store."""
    unusable: str = ""
    """Why there are none though the videos have labels."""

    def centres(self) -> Tensor:
        """At most 4,096 window centres, evenly spaced."""
        centres = self.sampler.centres
        stride = max(1, -(-len(centres) // _MOST_WINDOWS))
        return centres[::stride]

    def true_actions(self) -> Tensor | None:
        """[W] int64, or [W, A] float32, at `centres`."""
        if self.action is None:
            return None
        continuous = self.action.ndim == 2
        return torch.from_numpy(self.action if continuous else self.action.astype(np.int64))[self.centres().cpu()]


def held_out_windows(videos: ExpertVideos, settings: Config, compute: Compute) -> HeldOut | None:
    """The held-out episodes as windows with a generator of their own; None where they are too short."""
    _, held_out = videos.split(settings.held_out)
    generator = torch.Generator(compute.device)
    store = FrameStore.from_episodes(held_out.frames, held_out.lengths, compute.device, settings.frames_gb)
    latent = settings.latent_actions
    sampler = WindowSampler(store, latent.past_frames, latent.future_frames, generator, stack=settings.frame_stack)
    if len(sampler.centres) == 0:
        return None
    labels = evaluation_labels.load_labels(videos.path)
    if labels is None:
        return HeldOut(sampler, None)
    own = labels.action[len(videos.frames) - len(held_out.frames) : len(videos.frames)]
    ends = held_out.lengths.cumsum() - 1
    env = settings.env.split(",")[0]
    try:
        return HeldOut(sampler, evaluation_labels.as_actions(own, ends, spec(env).actions))
    except ValueError as error:
        return HeldOut(sampler, None, f"the videos' labels are not {env}'s {error}")


@dataclass(frozen=True)
class LatentReport:
    """Figures of p, the codebook and w on held-out windows."""

    prediction_error: float
    copy_error: float
    spread: float
    """Standard deviation of z over the windows, mean over its dimensions."""
    code_use: np.ndarray
    """[K, M] share of each code in its codebook."""
    probe: float | None
    """Of a linear readout of true actions from z: mean recall over them, or the variance explained of continuous ones;
    None without labels."""
    probe_chance: float
    """What a readout gets for nothing."""
    probe_kind: str = "mean_recall"

    @property
    def error_of_copy(self) -> float:
        """World-model error, the error of copying the last frame being 1."""
        return self.prediction_error / max(self.copy_error, 1e-12)

    @property
    def perplexity(self) -> float:
        """Mean over the codebooks."""
        return float(np.exp(-(self.code_use * np.log(self.code_use + 1e-10)).sum(axis=1)).mean())

    @property
    def dead_codes(self) -> int:
        return int((self.code_use == 0).sum())

    @property
    def codes(self) -> int:
        return self.code_use.size

    def figures(self) -> dict[str, float]:
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
        """The probe's figure beside chance."""
        return f"probe {self.probe_kind.replace('_', ' ')} {self.probe:.0%}, chance {self.probe_chance:.0%}"

    def complaints(self) -> list[str]:
        lines = []
        if self.prediction_error >= self.copy_error:
            lines.append(
                f"the world model predicts no better than copying the last frame "
                f"({self.prediction_error:.2e} against {self.copy_error:.2e})"
            )
        if self.spread < _LEAST_SPREAD:
            lines.append(f"the predictor gives every window the same latent action (spread {self.spread:.0e})")
        elif self.perplexity < 2:
            lines.append(f"the codebook has collapsed (perplexity {self.perplexity:.1f})")
        elif self.dead_codes > 0.75 * self.codes:
            lines.append(f"{self.dead_codes} of {self.codes} codes are never used on held-out frames")
        if self.probe is not None and self.probe < self.probe_chance:
            lines.append(f"latent actions do not tell true actions apart ({self.describe_probe()})")
        return lines


@torch.no_grad()
def latent_report(agent: Agent, held_out: HeldOut) -> LatentReport:
    """Runs p, codebook and w over the held-out windows."""
    agent.eval()
    latents, errors, copies = [], [], []
    for centres in held_out.centres().split(_BATCH):
        features = frame_features(agent.encoder, *held_out.sampler.take(centres), agent.compute)
        result = predict_next(agent.predictor, agent.codebook, agent.world_model, features, agent.compute, update=False)
        latents.append(result.latent_action)
        errors.append(result.prediction_error * len(centres))
        copies.append(copy_error(features, agent.world_model) * len(centres))
    z = torch.cat(latents)
    chosen = agent.codebook(z, update=False).indices.unbind(1)
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
    """Variance of continuous actions truth [W, A] that a ridge regression from latent actions z [W, D] explains.

    Fitted and scored on alternate blocks of windows, as `probe_recall`.
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

    Every action weighs the same, however rare. Fitted on alternate blocks of 64 windows and scored on
    the others, since neighbours in time look alike; actions that either side lacks are left out.
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
    """How actions decoded for held-out expert frames agree with the true ones."""

    labelling_accuracy: float
    """d(p(window)): what the policy is taught."""
    policy_accuracy: float
    """d(pi(frame)): what it would do."""
    confusion: list[list[int]]
    """[true][decoded by d(p)] counts."""

    @property
    def labelling_information(self) -> float:
        """Mutual information of true and decoded actions over the entropy of the true ones: 0 is chance, 1 is all,
        whichever of several actions that do the same is decoded."""
        joint = np.array(self.confusion, np.float64)
        joint /= joint.sum()
        true, decoded = joint.sum(axis=1), joint.sum(axis=0)
        entropy = -float((true[true > 0] * np.log(true[true > 0])).sum())
        where = joint > 0
        information = float((joint[where] * np.log((joint / np.outer(true, decoded).clip(1e-12))[where])).sum())
        return information / entropy if entropy > 0 else 0.0

    def figures(self) -> dict[str, float]:
        names = ("labelling_accuracy", "labelling_information", "policy_accuracy")
        true = np.array(self.confusion).sum(axis=1)
        return {name: float(getattr(self, name)) for name in names} | {
            "commonest_action": float(true.max() / true.sum())
        }


@dataclass(frozen=True)
class ContinuousReport:
    """The share of the variance of true actions that actions decoded for held-out expert frames explain."""

    labelling_explained: float
    """By d(p(window)): what the policy is taught."""
    policy_explained: float
    """By d(pi(observation)): what it would do."""

    def figures(self) -> dict[str, float]:
        return asdict(self)


Agreement = DiscreteReport | ContinuousReport


@torch.no_grad()
def action_report(agent: Agent, held_out: HeldOut) -> Agreement | None:
    """Compares decoded with true actions; None without labels."""
    truth = held_out.true_actions()
    if truth is None or len(truth) == 0:
        return None
    agent.eval()
    labels, acts = [], []
    for centres in held_out.centres().split(_BATCH):
        features = frame_features(agent.encoder, *held_out.sampler.take(centres), agent.compute)
        with agent.compute.autocast():
            labels.append(agent.decoder(agent.predictor(features)).float().cpu())
        acts.append(agent.decoded(held_out.sampler.observations(centres)).cpu())
    labelled, acted = torch.cat(labels), torch.cat(acts)
    if truth.is_floating_point():
        own = labelled.clamp(-1, 1), acted.clamp(-1, 1)
        return ContinuousReport(*(float(variance_explained(guess, truth)) for guess in own))
    decoded, chosen = labelled.argmax(dim=1), acted.argmax(dim=1)
    size = agent.spec.actions.size
    confusion = (truth * size + decoded).bincount(minlength=size**2).view(size, -1)
    return DiscreteReport(
        float((decoded == truth).float().mean()), float((chosen == truth).float().mean()), confusion.tolist()
    )
