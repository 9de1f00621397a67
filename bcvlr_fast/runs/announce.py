"""The first lines of a run: what runs, where, and for about how long."""

from __future__ import annotations

from pathlib import Path

from bcvlr_fast import kernels
from bcvlr_fast.config.run import DEFAULT_METHOD, RunConfig
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import choose_compute, choose_device, measured_tflops

_TFLOP = {("paper", False): 55_400.0, ("quick", False): 200.0, ("paper", True): 28_600.0, ("quick", True): 310.0}
"""TFLOP that the measured residual blocks compute in the time of a run, by scale and by whether frames are stacked.

At scale `paper` this is about the work of the updates. At scale `quick` it is at least twice that, because operations
other than convolutions take much of the time.
"""
_ONLINE_SHARE = {"paper": 0.23, "quick": 0.85}
"""Fraction of the time of a run that phase 4 takes, which every further task repeats."""


def announce(settings: RunConfig, folder: Path, why: str, screen: Screen) -> None:
    """Prints the method, the task and the run folder, the measured speed of the device, and the estimated time.

    `why` is the reason for the preset.
    """
    compute = choose_compute(choose_device(settings.device), settings.precision)
    tflops = measured_tflops(compute)
    screen.say(f"{settings.method} on {settings.task_name}, preset {settings.preset} ({why})")
    speed = f"{compute.device} in {compute.precision}, {tflops:.2f} TFLOP/s measured"
    screen.say(f"{speed}{_about(settings, tflops)}; run folder {folder}")
    screen.say(f"kernels: {kernels.describe(compute.device)}")


def _about(settings: RunConfig, tflops: float) -> str:
    """The estimated time of a run of BCV-LR, as text; empty for other methods."""
    if settings.method != DEFAULT_METHOD:
        return ""
    one = _TFLOP[settings.preset, settings.frame_stack > 1] / tflops / 60
    minutes = one * (1 + (len(settings.env) - 1) * _ONLINE_SHARE[settings.preset])
    return f": about {minutes:.0f} minutes" if minutes < 180 else f": about {minutes / 60:.0f} hours"
