"""Corrects d for label shift: the expert takes its actions at other frequencies than those that d learned from.

d gives p(action | window) where actions are as frequent as in own play, half of which is random in preset quick. The
frequencies of the expert are estimated from its videos by expectation maximization (Saerens et al. 2002, Adjusting the
outputs of a classifier to new a priori probabilities), and Bayes' rule corrects d. Nothing is known about the expert's
actions but what p and d see in the videos.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.methods.bcvlr.agent import Agent

_ITERATIONS = 5
"""More would fit the errors of d, which is surer of the expert's windows than it should be, and drift among actions
that look alike."""
_WINDOWS, _BATCH = 8192, 512
_MAX_SHIFT = 6.0
"""Bound of a logit's correction: no action becomes impossible."""


@torch.no_grad()
def correct_label_shift(agent: Agent, videos: WindowSampler, own: Tensor) -> Tensor:
    """Adds log(q / q_own) to the logits of d, for good, and returns the estimated frequencies q [A] of the expert.

    `own` [N] int64 are the actions that d learned from. The windows are spread evenly over the videos.
    """
    centers = videos.centers[:: max(1, len(videos.centers) // _WINDOWS)]
    logits = [
        agent.decode(agent.latent_action(agent.frame_features(*videos.take(part)))) for part in centers.split(_BATCH)
    ]
    posterior = torch.cat(logits).double().softmax(dim=1)
    counts = own.bincount(minlength=posterior.shape[1]).double() + 1
    own_frequencies = counts / counts.sum()
    frequencies = expert_frequencies(posterior, own_frequencies)
    shift = (frequencies / own_frequencies).log().clamp(-_MAX_SHIFT, _MAX_SHIFT)
    agent.decoder.output.bias.add_(shift)
    return frequencies


def expert_frequencies(posterior: Tensor, own: Tensor) -> Tensor:
    """Frequencies [A] of actions in windows with the probabilities `posterior` [W, A], given that actions have the
    frequencies `own` [A]. Both are float64."""
    frequencies = own
    for _ in range(_ITERATIONS):
        corrected = posterior * (frequencies / own)
        frequencies = (corrected / corrected.sum(dim=1, keepdim=True)).mean(dim=0)
    return frequencies
