"""The settings that every run has, whatever its method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bcvlr_fast.config.fields import check_fields, number, setting
from bcvlr_fast.config.window import Window

DEFAULT_METHOD = "bcv-lr"


@dataclass(frozen=True)
class RunSettings:
    """What to learn, by which method, and where to compute."""

    env: tuple[str, ...] = ("procgen:bossfight",)
    """Environment as suite:task, such as procgen:bossfight or dmc:reacher_easy. Several, separated by spaces, share one
    pretraining."""
    method: str = setting(DEFAULT_METHOD, before="bcv-lr")
    """Learning method: bcv-lr, or bc-true-actions (behavior cloning on the true actions of labeled videos)."""
    preset: Literal["auto", "paper", "quick"] = "auto"
    """Scale of all settings: paper (hours on a GPU), quick (minutes on two CPU cores), or auto: paper on a CUDA device,
    quick on a CPU."""
    seed: int = number(0, 0, 2**31 - 1)
    """Seed of all random numbers of the run."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:N, or auto: a CUDA device if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the networks: fp32, bf16, or auto: bf16 where the hardware supports it natively."""
    optimizer: Literal["adamw", "muon"] = setting("adamw", before="adamw")
    """Optimizer of all phases: adamw, the paper's, or muon, which needs about half as many updates."""
    compile: bool = setting(False, before=False)
    """Compile the networks with torch.compile. Takes minutes at the start and is no faster on a CPU."""


@dataclass(frozen=True)
class DataSettings:
    """Which expert videos to learn from, and how frames are drawn and stored."""

    videos: tuple[Path, ...] = ()
    """Expert videos: a dataset, a file of recorded actions, or any format that `bcvlr_fast.videos import` reads.
    Several are joined, or are one for each environment. None: the environment's bundled expert."""
    video_frames: int = number(0, 0, before=0)
    """Use only the first N frames of each video dataset. 0 uses all frames."""
    expert_frames: int = number(100_000, 100, before=100_000)
    """Frames to record of an expert, in whole episodes. Replays may have fewer."""
    expert_steps: int = number(0, 0, before=0)
    """Record only the first N steps of each expert episode. 0 records whole episodes, in MetaWorld up to 20 steps after
    success."""
    labels: Path | None = setting(None, before=None)  # noqa: RUF009
    """Videos with actions (a dataset with labels, or a file of recorded actions) to train the action decoder on. They
    replace interaction with the environment."""
    labelled_frames: int = number(10_000, 100, before=10_000)
    """Use only the first N frames of --labels."""
    frames_gb: float = number(0.0, 0.0, before=0.0)
    """Device memory for the video frames, in GB; frames that do not fit stream from the host. 0: all free memory."""
    held_out: float = number(0.1, 0.0, 0.9)
    """Fraction of the video episodes held out from training, for the diagnostics."""
    still_share: float = number(1.0, 0.0, 1.0, before=1.0)
    """Maximum fraction of near-static windows in the training videos; the excess is dropped. 1 keeps all."""
    frame_stack: int = number(1, 1, 16, before=1)
    """Frames per observation."""
    rendering: Literal["auto", "stock", "fast"] = setting("auto", before="stock")
    """How MuJoCo draws the frames of videos and environment: stock, fast (smaller shadow maps, see docs/continuous.md),
    or auto: stock on a GPU, fast on a CPU."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How the finished policy is scored and filmed."""

    episodes: int = number(100, 1, 100_000)
    """Episodes of the final evaluation."""
    films: int = number(3, 0, 100, before=3)
    """Films in the report that show the agent beside the expert. 0 writes none."""


@dataclass(frozen=True)
class RunConfig(EvaluationSettings, DataSettings, RunSettings):
    """One run without the settings of its method. Repeating it on the same CPU with the same build gives the same bits,
    if the frames are placed alike (in memory or in a file)."""

    @property
    def first_env(self) -> str:
        """The environment, or the first of several."""
        return self.env[0]

    @property
    def task_name(self) -> str:
        """All environments as one name, such as procgen:miner+procgen:maze."""
        return "+".join(self.env)

    @property
    def window(self) -> Window:
        """The observations that the method sees together: by default one and the next."""
        return Window(0, 1, self.frame_stack)

    def check(self) -> None:
        """Raises UserError where settings contradict each other; a method's configuration extends it."""


GROUPS: dict[str, type] = {"run": RunSettings, "data": DataSettings, "evaluation": EvaluationSettings}
"""The parts of RunConfig by the name that `--help` gives them."""


def validate(config: RunConfig) -> None:
    """Raises UserError for the first setting that is out of range or contradicts another."""
    check_fields(config)
    config.check()
