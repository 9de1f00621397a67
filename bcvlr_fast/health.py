"""Is a phase doing its work? Figures on held-out frames, and one line where something looks broken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast import evaluation_labels
from bcvlr_fast.agent import Agent
from bcvlr_fast.compute import Compute
from bcvlr_fast.config import Config
from bcvlr_fast.evaluation_labels import NO_ACTION
from bcvlr_fast.frames import FrameStore, WindowSampler
from bcvlr_fast.latent_actions import copy_error, frame_features, predict_next
from bcvlr_fast.videos import Videos

_BATCH = 256
_MOST_WINDOWS = 4096
_LEAST_SPREAD = 1e-5


@dataclass(frozen=True)
class HeldOut:
    """Held-out windows, and the expert's true actions on them where labels exist (evaluation only)."""

    sampler: WindowSampler
    action: np.ndarray | None
    """[N] uint8 for each frame of the held-out store."""

    def centres(self) -> Tensor:
        """At most 4,096 window centres, evenly spaced."""
        centres = self.sampler.centres
        stride = max(1, -(-len(centres) // _MOST_WINDOWS))
        return centres[::stride]

    def true_actions(self) -> Tensor | None:
        """[W] int64 at `centres`."""
        if self.action is None:
            return None
        actions = torch.from_numpy(self.action.astype(np.int64))[self.centres().cpu()]
        assert bool((actions != NO_ACTION).all())
        return actions


def held_out_windows(videos: Videos, settings: Config, compute: Compute) -> HeldOut | None:
    """The held-out episodes as windows with a generator of their own; None where they are too short."""
    _, held_out = videos.split(settings.held_out)
    generator = torch.Generator(compute.device)
    store = FrameStore.from_episodes(held_out.frames, held_out.lengths, compute.device, settings.frames_gb)
    latent = settings.latent_actions
    sampler = WindowSampler(store, latent.past_frames, latent.future_frames, generator)
    if len(sampler.centres) == 0:
        return None
    labels = evaluation_labels.load(videos.path)
    action = _held_out_actions(labels.action, len(videos.frames), len(held_out.frames)) if labels else None
    return HeldOut(sampler, action)


def _held_out_actions(action: np.ndarray, frames: int, held_out: int) -> np.ndarray | None:
    """The last `held_out` of the first `frames` true actions; None where they are continuous or not known."""
    known = action.ndim == 1 and bool((action != NO_ACTION).any())
    return action[frames - held_out : frames].copy() if known else None


@dataclass(frozen=True)
class LatentReport:
    """Figures of p, the codebook and w on held-out windows."""

    prediction_error: float
    copy_error: float
    spread: float
    """Standard deviation of z over the windows, mean over its dimensions."""
    code_use: np.ndarray
    """[K, M] share of each code in its codebook."""
    probe_recall: float | None
    """Mean recall over true actions of a linear readout from z; None without labels."""
    probe_chance: float | None
    """What a readout gets for nothing."""

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
            "probe_recall",
            "probe_chance",
        )
        return {name: float(getattr(self, name)) for name in names if getattr(self, name) is not None}

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
        if self.probe_recall is not None and self.probe_chance is not None and self.probe_recall < self.probe_chance:
            lines.append(
                f"latent actions do not tell true actions apart "
                f"(probe recall {self.probe_recall:.0%}, chance {self.probe_chance:.0%})"
            )
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
    recall, chance = (None, None) if truth is None else probe_recall(z.cpu(), truth)
    return LatentReport(
        prediction_error=float(torch.stack(errors).sum()) / len(z),
        copy_error=float(torch.stack(copies).sum()) / len(z),
        spread=float(z.std(dim=0).mean()),
        code_use=torch.stack(shares).cpu().numpy(),
        probe_recall=recall,
        probe_chance=chance,
    )


def probe_recall(z: Tensor, truth: Tensor) -> tuple[float, float]:
    """(mean recall over actions, chance level) of a ridge classifier from latent actions z [W, D] to truth [W].

    Every action weighs the same, however rare. Fitted on alternate blocks of 64 windows and scored on
    the others, since neighbours in time look alike; actions that either side lacks are left out.
    """
    fit = (torch.arange(len(z)) // 64) % 2 == 0
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
class ActionReport:
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


@torch.no_grad()
def action_report(agent: Agent, held_out: HeldOut) -> ActionReport | None:
    """Compares decoded with true actions; None without labels."""
    truth = held_out.true_actions()
    if truth is None or len(truth) == 0:
        return None
    agent.eval()
    labelled, chosen = [], []
    for centres in held_out.centres().split(_BATCH):
        features = frame_features(agent.encoder, *held_out.sampler.take(centres), agent.compute)
        with agent.compute.autocast():
            labelled.append(agent.decoder(agent.predictor(features)).argmax(dim=1).cpu())
        frames, index = held_out.sampler.store.take(centres[:, None])
        chosen.append(agent.logits(frames.index_select(0, index[:, 0])).argmax(dim=1).cpu())
    decoded, acted = torch.cat(labelled), torch.cat(chosen)
    pairs = truth * agent.num_actions + decoded
    confusion = pairs.bincount(minlength=agent.num_actions**2).view(agent.num_actions, -1)
    return ActionReport(
        float((decoded == truth).float().mean()), float((acted == truth).float().mean()), confusion.tolist()
    )
