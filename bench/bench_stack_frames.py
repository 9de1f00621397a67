"""Benchmark of stack_frames in the forms of quick (differences) and paper: pytest bench/bench_stack_frames.py"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bcvlr_fast.kernels import stack_frames
from conftest import Compare

CASES = {"quick, 5 frames, changes": (5, 128, 32, 8.0), "paper, 3 frames": (3, 128, 64, 0.0)}


def joined(features: Tensor, length: int, gain: float) -> Tensor:
    """The plain form: concatenates, subtracts, scales, concatenates again."""
    channels = features.shape[1]
    window = torch.cat(features.chunk(length), dim=1)
    if gain == 0:
        return window
    changes = (window[:, channels:] - window[:, :-channels]) * gain
    return torch.cat([changes, window[:, -channels:]], dim=1)


@pytest.mark.parametrize("peer", ["eager", "torch.compile", "copy"])
@pytest.mark.parametrize("case", CASES)
def test_stack_frames(compare: Compare, device: torch.device, case: str, peer: str) -> None:
    """Runs in bf16, channels last; the copy moves as many bytes and is the lower bound."""
    length, batch, side, gain = CASES[case]
    features = torch.randn(length * batch, 16, side, side, device=device).bfloat16()
    features = features.to(memory_format=torch.channels_last)
    actual = stack_frames(features, length, gain)
    if peer == "copy":
        compare("stack_frames", case, peer, lambda: stack_frames(features, length, gain), features.clone)
        return
    plain = joined if peer == "eager" else torch.compile(joined, dynamic=False)
    tolerance = 0 if peer == "eager" else 2**-7  # compiled code rounds once where eager rounds twice
    torch.testing.assert_close(actual, plain(features, length, gain), rtol=tolerance, atol=tolerance)
    ours = lambda: stack_frames(features, length, gain)  # noqa: E731
    compare("stack_frames", case, peer, ours, lambda: plain(features, length, gain))
