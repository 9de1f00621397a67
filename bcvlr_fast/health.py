"""Is a phase doing its work? Figures on held-out frames, and one line where something looks broken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bcvlr_fast.agent import Agent
from bcvlr_fast.evaluation_labels import NO_ACTION
from bcvlr_fast.frames import WindowSampler
from bcvlr_fast.latent_actions import copy_error, predict_next, window_features

_BATCH = 256
_MOST_WINDOWS = 4096


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


@dataclass(frozen=True)
class LatentReport:
    """Figures of p, the codebook and w on held-out windows."""

    prediction_error: float
    copy_error: float
    perplexity: float
    dead_codes: int
    codes: int
    probe_accuracy: float | None
    """A linear readout of true actions from z; None without labels."""
    majority_share: float | None
    """Share of the commonest true action: what a probe gets for nothing."""

    def figures(self) -> dict[str, float]:
        return {k: float(v) for k, v in vars(self).items() if v is not None}

    def complaints(self) -> list[str]:
        lines = []
        if self.prediction_error >= self.copy_error:
            lines.append(
                f"the world model predicts no better than copying the last frame "
                f"({self.prediction_error:.2e} against {self.copy_error:.2e})"
            )
        if self.perplexity < 2:
            lines.append(f"the codebook has collapsed (perplexity {self.perplexity:.1f})")
        elif self.dead_codes > 0.75 * self.codes:
            lines.append(f"{self.dead_codes} of {self.codes} codes are never used on held-out frames")
        if self.probe_accuracy is not None and self.majority_share is not None:
            if self.probe_accuracy <= self.majority_share:
                lines.append(
                    f"latent actions do not tell true actions apart (probe {self.probe_accuracy:.0%}, "
                    f"commonest action {self.majority_share:.0%})"
                )
        return lines


@torch.no_grad()
def latent_report(agent: Agent, held_out: HeldOut) -> LatentReport:
    """Runs p, codebook and w over the held-out windows."""
    training = agent.world_model.training
    agent.world_model.eval()
    latents, errors, copies, codes = [], [], [], []
    for centres in held_out.centres().split(_BATCH):
        window = window_features(agent.encoder, held_out.sampler, centres, agent.compute)
        result = predict_next(
            agent.predictor, agent.codebook, agent.world_model, window, agent.compute, update=False
        )
        latents.append(result.latent_action)
        codes.append(result.code.indices)
        errors.append(result.prediction_error * len(centres))
        copies.append(copy_error(window, agent.encoder.channels) * len(centres))
    agent.world_model.train(training)
    z = torch.cat(latents)
    use = _code_use(torch.cat(codes), agent.codebook.codes.shape[1])  # [K, M] shares
    perplexity = torch.exp(-(use * (use + 1e-10).log()).sum(dim=1)).mean()
    truth = held_out.true_actions()
    return LatentReport(
        prediction_error=float(torch.stack(errors).sum()) / len(z),
        copy_error=float(torch.stack(copies).sum()) / len(z),
        perplexity=float(perplexity),
        dead_codes=int((use == 0).sum()),
        codes=use.numel(),
        probe_accuracy=None if truth is None else probe_accuracy(z.cpu(), truth),
        majority_share=None if truth is None else float(truth.bincount().max()) / len(truth),
    )


def _code_use(indices: Tensor, size: int) -> Tensor:
    return torch.stack([i.reshape(-1).bincount(minlength=size) / i.numel() for i in indices.unbind(1)])


def probe_accuracy(z: Tensor, truth: Tensor) -> float:
    """Accuracy of a ridge classifier from latent actions z [W, D] to true actions [W].

    Fitted on alternate blocks of 64 windows and scored on the others: neighbours in time look alike.
    """
    fit = (torch.arange(len(z)) // 64) % 2 == 0
    if fit.all():
        return float("nan")
    z = (z - z[fit].mean(dim=0)) / (z[fit].std(dim=0) + 1e-6)
    x = torch.cat([z, torch.ones(len(z), 1)], dim=1).double()
    y = torch.nn.functional.one_hot(truth, int(truth.max()) + 1).double()
    gram = x[fit].T @ x[fit] + 10.0 * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, x[fit].T @ y[fit])
    return float(((x @ weight).argmax(dim=1) == truth)[~fit].double().mean())


@dataclass(frozen=True)
class ActionReport:
    """How actions decoded for held-out expert frames agree with the true ones."""

    labelling_accuracy: float
    """d(p(window)): what the policy is taught."""
    policy_accuracy: float
    """d(pi(frame)): what it would do."""
    confusion: list[list[int]]
    """[true][decoded by d(p)] counts."""


@torch.no_grad()
def action_report(agent: Agent, held_out: HeldOut) -> ActionReport | None:
    """Compares decoded with true actions; None without labels."""
    truth = held_out.true_actions()
    if truth is None or len(truth) == 0:
        return None
    labelled, chosen = [], []
    for centres in held_out.centres().split(_BATCH):
        window = window_features(agent.encoder, held_out.sampler, centres, agent.compute)
        with agent.compute.autocast():
            labelled.append(agent.decoder(agent.predictor(window)).argmax(dim=1).cpu())
        frames, index = held_out.sampler.store.take(centres[:, None])
        chosen.append(agent.logits(frames.index_select(0, index[:, 0])).argmax(dim=1).cpu())
    decoded, acted = torch.cat(labelled), torch.cat(chosen)
    pairs = truth * agent.num_actions + decoded
    confusion = pairs.bincount(minlength=agent.num_actions**2).view(agent.num_actions, -1)
    return ActionReport(
        float((decoded == truth).float().mean()), float((acted == truth).float().mean()), confusion.tolist()
    )
