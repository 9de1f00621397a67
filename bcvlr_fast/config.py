"""Every setting of a run as frozen data, and the presets by suite and scale.

Values of the `paper` preset follow the BCV-LR paper (arXiv 2512.21586) and, where it is silent,
the authors' code. Importing this module imports neither torch nor an environment.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bcvlr_fast.data.window import Window
from bcvlr_fast.system.errors import UserError, did_you_mean

PRESETS = ("paper", "quick")


def number(default: float, low: float, high: float = math.inf) -> Any:
    """A dataclass field that `validate` holds to `low <= value <= high`."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class EncoderConfig:
    """Self-supervised encoder f: conv 3x3, then residual blocks without a final activation, or plain convolutions."""

    channels: int = number(16, 1, 1024)
    stride: Literal[1, 2, 4] = 1
    """2 halves the feature map's side: a quarter of every later cost."""
    residual_blocks: int = number(2, 0, 16)
    plain_layers: int = number(0, 0, 16)
    """Convolutions 3x3 after the first in place of residual blocks, every one with a ReLU."""
    pretrained: str = ""
    """A timm model by name, such as resnet18 (extra [timm]): its first feature maps, frozen, in place of f."""
    pretrained_weights: Path | None = None
    """Its weights as safetensors; without a file timm downloads those that it publishes."""
    pretrained_stage: int = number(1, 0, 8)
    """Which of its feature maps, from the largest."""


@dataclass(frozen=True)
class FeaturesConfig:
    """Phase 1: f by contrast of two random shifts and by reconstruction (Eq. 1), or by prototypes (Eq. 10)."""

    objective: Literal["contrastive", "contrastive+reconstruction", "prototypes", "none"] = "contrastive+reconstruction"
    """contrastive: two shifts of one observation; prototypes: an observation and the next; none leaves f as it is."""
    updates: int = number(20_000, 0)
    batch_size: int = number(512, 2, 65_536)
    learning_rate: float = number(3e-5, 0, 10)
    shift_pad: int = number(1, 0, 32)
    shift_mode: Literal["integer", "bilinear"] = "integer"
    """integer: exact crop with replicated border; bilinear: the official half-pixel blend."""
    projection_dim: int = number(256, 1, 8192)
    hidden_dim: int = number(512, 1, 8192)
    target_rate: float = number(0.05, 0, 1)
    """Share of the online weights that enters the EMA target at each of its updates."""
    target_every: int = number(2, 1, 16)
    reconstruction_weight: float = number(0.1, 0, 1e4)
    train_reconstruction: bool = True
    """False leaves the pixel decoder at its random start, as the official optimiser does."""
    prototypes: int = number(512, 2, 65_536)
    temperature: float = number(0.1, 0.025, 100)
    sinkhorn_iterations: int = number(3, 1, 100)


@dataclass(frozen=True)
class LatentActionsConfig:
    """Phase 2: predictor p, codebook and world model w (Eq. 2)."""

    updates: int = number(10_000, 0)
    batch_size: int = number(128, 2, 65_536)
    learning_rate: float = number(3e-4, 0, 10)
    weight_decay: float = number(0.01, 0, 10)
    grad_clip: float = number(2.0, 0, 1e6)
    past_frames: int = number(1, 0, 8)
    """Frames before o_t that p and w see beside it; the policy sees o_t alone."""
    future_frames: int = number(1, 1, 8)
    """Frames after o_t that p sees. 1 is the paper's; an action whose effect shows later needs more:
    a shot in bossfight is nowhere in o_{t+1} and one or two pixels in o_{t+2}."""
    impala_channels: tuple[int, ...] = (64, 128, 128)
    hidden_dim: int = number(256, 1, 8192)
    codebooks: int = number(2, 1, 64)
    codes: int = number(64, 2, 65_536)
    code_dim: int = number(16, 1, 1024)
    positions: int = number(4, 1, 64)
    motion_gain: float = number(0.0, 0, 1000)
    """Above 0, p sees the changes from frame to frame, times this, and the last frame, instead of the
    frames: the same function class, but small moving sprites stand out from the start."""
    commitment: float = number(0.05, 0, 1e4)
    ema_decay: float = number(0.999, 0, 1)
    codebook_start: Literal["counted", "zero"] = "counted"
    """counted: every code starts with weight one; zero: with weight nought, as the official code."""
    restart_below: float = number(0.0, 0, 1e6)
    """A code whose EMA count falls below this restarts at a latent of the batch; 0 never does."""
    world_model_width: int = number(24, 1, 1024)
    world_model_output: Literal["tanh_half", "linear", "residual"] = "tanh_half"
    """tanh_half: the official bound of 1/2; residual: the last frame's features plus a change."""
    world_model_start: Literal["random", "zero"] = "random"
    """zero: the last layer begins at nought, so that a residual begins as a copy of the last frame's features."""

    @property
    def window_frames(self) -> int:
        """Frames of one window: before o_t, o_t itself, after it."""
        return self.past_frames + 1 + self.future_frames

    @property
    def latent_dim(self) -> int:
        return self.codebooks * self.code_dim * self.positions


@dataclass(frozen=True)
class PolicyConfig:
    """Phase 3: latent policy pi clones the latent actions of the videos (Eq. 4)."""

    trunk: Literal["impala", "mlp"] = "impala"
    """impala: convolutions; mlp: the features flattened to `bottleneck_dim`, normalised, and fully connected layers."""

    updates: int = number(60_000, 0)
    batch_size: int = number(128, 1, 65_536)
    learning_rate: float = number(2e-4, 0, 10)
    weight_decay: float = number(0.01, 0, 10)
    impala_channels: tuple[int, ...] = (64, 128, 128)
    hidden_dim: int = number(256, 1, 8192)
    bottleneck_dim: int = number(50, 1, 8192)
    mlp_hidden: tuple[int, ...] = (1024, 1024)
    shift_pad: int = number(0, 0, 32)
    """Random shift of the frames that pi clones from; 0 is the paper's."""
    stack_dropout: float = number(0.0, 0, 1)
    """Share of the stacks that pi clones from in which the newest frame takes the earlier ones' place; 0 is the
    paper's. From motion alone pi learns to go on as before: to stand where it stands, reached or not."""


@dataclass(frozen=True)
class OnlineConfig:
    """Phase 4: rounds of acting, fine-tuning p with the action decoder d (Eq. 3), and cloning."""

    interactions: int = number(100_000, 1)
    """Steps of the agent in all, the random ones included; resets are not interactions."""
    num_envs: int = number(64, 1, 4096)
    round_interactions: int = number(4096, 1)
    exploration: float = number(0.0, 0, 1)
    """Share of actions taken at random after the first round; the paper takes none."""
    exploration_steps: int = number(1, 1, 1000)
    """Steps for which a random action, in the first round too, is repeated; 1 is the paper's."""
    exploration_noise: float = number(0.5, 0, 10)
    """Standard deviation of what is added to continuous actions."""
    capacity: int = number(20_000, 64)
    """Transitions kept, oldest dropped first."""
    finetune_updates: int = number(60, 0)
    """A round."""
    finetune_epochs: float = number(0.0, 0, 1000)
    """Above 0, a round goes through all transitions kept so many times instead, so that rounds grow."""
    finetune_batch_size: int = number(512, 2, 65_536)
    finetune_shift_pad: int = number(0, 0, 32)
    """Random shift of own windows, the same for all frames of a window; 0 is the paper's."""
    predictor_learning_rate: float = number(2e-5, 0, 10)
    decoder_learning_rate: float = number(1e-3, 0, 10)
    world_model_learning_rate: float = number(0.0, 0, 10)
    """0 leaves the weights of w as they are."""
    regularisation: float = number(15.0, 0, 1e6)
    """beta: weight of world-model error and commitment beside the action loss; at 0 neither is computed."""
    world_model_norm: Literal["train", "eval"] = "train"
    """Whether w normalises by batch (and moves its statistics), as officially."""
    decoder_hidden: tuple[int, ...] = (192, 128, 64)
    clone_updates: int = number(500, 0)
    clone_batch_size: int = number(128, 1, 65_536)
    clone_learning_rate: float = number(2e-4, 0, 10)
    clone_anneal: bool = False
    """Whether that of the last round falls to 0, linearly; the paper's does not."""

    @property
    def rounds(self) -> int:
        """Rounds of the whole phase."""
        return -(-self.interactions // self.round_interactions)

    def round_end(self, number: int) -> int:
        """Interactions after round `number`, the first of which is 0."""
        return min((number + 1) * self.round_interactions, self.interactions)

    def finetune_updates_for(self, kept: int) -> int:
        """Updates of a round's fine-tuning with `kept` transitions."""
        if self.finetune_epochs:
            return round(self.finetune_epochs * kept / self.finetune_batch_size)
        return self.finetune_updates


@dataclass(frozen=True)
class Config:
    """One run, complete: on the same CPU with the same build it repeats the run bit for bit, if the frames find the
    same place (memory or file)."""

    env: str = "procgen:bossfight"
    """suite:task, such as procgen:bossfight; several, with commas, share the pretraining."""
    preset: str = "auto"
    """paper, quick, or auto: paper on a CUDA device, quick on a CPU."""
    seed: int = number(0, 0, 2**31 - 1)
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """fp32, bf16, or auto: bf16 where the hardware multiplies it."""
    compile: bool = False
    """torch.compile the networks: minutes of compiling first; no faster on a CPU."""
    videos: Path | None = None
    """Expert videos in any format that `bcvlr_fast.videos import` reads, a dataset, or a file of replays; several, with
    commas, are joined, or one for each environment. Without it the bundled replays of the environment."""
    video_frames: int = number(0, 0)
    """Frames of the videos to use, of each of several, from the first; 0 takes all."""
    expert_frames: int = number(100_000, 100)
    """Frames that the bundled experts of DMControl and MetaWorld record."""
    expert_steps: int = number(0, 0)
    """Of each of their episodes, the steps to record, from the first; 0: all, or in MetaWorld 20 after success."""
    labels: Path | None = None
    """Videos with actions (a dataset with labels, or replays) to decode from, instead of interacting."""
    labelled_frames: int = number(10_000, 100)
    """Frames of them to use, from the first."""
    frames_gb: float = number(0.0, 0.0)
    """Memory of the device for the videos' frames: where they need more, they stream from the host. 0: what is free."""
    held_out: float = number(0.1, 0.0, 0.9)
    """Share of the video episodes kept from training, for the health figures."""
    still_share: float = number(1.0, 0.0, 1.0)
    """Of the videos' windows at most this share may be still ones, where frames change less than on average; more are
    left out. 1 keeps all. An expert that has reached its goal stands there for most of the episode."""
    episodes: int = number(100, 1, 100_000)
    """Episodes of the closing evaluation."""
    films: int = number(3, 0, 100)
    """Films of the report, the agent beside the expert."""
    frame_stack: int = number(1, 1, 16)
    """Frames of an observation; they are kept once each, and stacked where they are used."""
    rendering: Literal["auto", "stock", "fast"] = "auto"
    """How MuJoCo draws, videos and own frames alike: stock, fast (smaller shadow maps, see docs/continuous.md), or
    auto: stock on a GPU, fast on a CPU."""
    method: str = "bcv-lr"
    """Method of learning."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    latent_actions: LatentActionsConfig = field(default_factory=LatentActionsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)

    @property
    def window(self) -> Window:
        """The observations around a step that p sees."""
        return Window(self.latent_actions.past_frames, self.latent_actions.future_frames, self.frame_stack)


_QUICK_FEATURES: dict[str, Any] = {"batch_size": 128, "learning_rate": 5e-4, "projection_dim": 128, "hidden_dim": 256}
_QUICK_LATENT_ACTIONS: dict[str, Any] = {
    "updates": 300,
    "impala_channels": (16, 32, 32),
    "motion_gain": 8.0,
    "ema_decay": 0.99,
    "restart_below": 0.02,
    "world_model_width": 16,
    "world_model_output": "residual",
}
_QUICK_POLICY: dict[str, Any] = {"learning_rate": 1e-3, "impala_channels": (16, 32, 32)}
"""What the quick presets have in common."""


def _quick_discrete(config: Config) -> Config:
    """Procgen in minutes on two CPU cores: half-size feature maps, a fraction of the updates."""
    return dataclasses.replace(
        config,
        encoder=EncoderConfig(channels=16, stride=2, residual_blocks=0),
        features=dataclasses.replace(config.features, updates=200, **_QUICK_FEATURES),
        latent_actions=dataclasses.replace(config.latent_actions, future_frames=3, **_QUICK_LATENT_ACTIONS),
        policy=dataclasses.replace(config.policy, updates=300, shift_pad=2, **_QUICK_POLICY),
        online=dataclasses.replace(
            config.online,
            exploration=0.5,
            exploration_steps=6,
            capacity=30_000,
            finetune_updates=240,
            finetune_batch_size=128,
            finetune_shift_pad=3,
            predictor_learning_rate=1e-3,
            regularisation=0.0,
            decoder_hidden=(128,),
            clone_updates=160,
            clone_learning_rate=7e-4,
        ),
    )


def _continuous(config: Config) -> Config:
    """DMControl's settings: stacked frames, prototypes, a fully connected policy, fine-tuning that grows."""
    return dataclasses.replace(
        config,
        episodes=10,
        frame_stack=3,
        encoder=EncoderConfig(channels=32, stride=2, residual_blocks=0, plain_layers=3),
        features=dataclasses.replace(
            config.features, objective="prototypes", updates=50_000, learning_rate=1e-4, shift_pad=4, projection_dim=128
        ),
        latent_actions=dataclasses.replace(config.latent_actions, updates=50_000, past_frames=0),
        policy=dataclasses.replace(config.policy, trunk="mlp"),
        online=dataclasses.replace(
            config.online,
            interactions=50_000,
            num_envs=4,
            round_interactions=1000,
            capacity=100_000,
            finetune_epochs=2.0,
            predictor_learning_rate=1e-3,
            world_model_learning_rate=1e-5,
            regularisation=1e-5,
            clone_updates=1000,
            clone_learning_rate=1e-3,
        ),
    )


def _quick_continuous(config: Config, suite: str, task: str) -> Config:
    """Continuous control in minutes on two CPU cores: narrow networks, a fifth of the interactions.

    MetaWorld and jaco take longest to draw; reacher's goals are everywhere, and its expert stands at one after 30 of
    500 steps; when to strike finger's spinner depends on how fast it turns, which the newest frame alone does not tell.
    """
    config = dataclasses.replace(
        config,
        episodes=50,
        expert_frames=15_000 if suite == "metaworld" or task.startswith("jaco") else 50_000,
        expert_steps=75 if task.startswith("reacher") else 0,
        still_share=0.5,
        encoder=EncoderConfig(channels=16, stride=2, residual_blocks=0),
        features=dataclasses.replace(config.features, updates=300, prototypes=64, **_QUICK_FEATURES),
        latent_actions=dataclasses.replace(config.latent_actions, world_model_start="zero", **_QUICK_LATENT_ACTIONS),
        policy=dataclasses.replace(
            config.policy,
            trunk="impala",
            stack_dropout=0.0 if task.startswith("finger") else 0.5,
            updates=800,
            **_QUICK_POLICY,
        ),
        online=dataclasses.replace(
            config.online,
            interactions=10_000,
            num_envs=10,
            round_interactions=2000,
            finetune_epochs=0.0,
            finetune_updates=400,
            finetune_batch_size=128,
            finetune_shift_pad=4,
            regularisation=0.0,
            world_model_learning_rate=0.0,
            decoder_hidden=(128,),
            clone_updates=1600,
            clone_anneal=True,
        ),
    )
    held = 4 if suite == "metaworld" else 8 if task.startswith("point_mass") else 1
    if held > 1:  # what moves follows late, and random steps that point elsewhere each time cancel out
        config = replace_in(config, "latent_actions", future_frames=3)
        config = replace_in(config, "online", exploration=0.5, exploration_steps=held)
    return config


def preset(env: str, scale: str) -> Config:
    """The configuration of an environment at scale `paper` or `quick`.

    Raises UserError for an unknown scale. Source of the exceptions by task: the paper's appendix and official code.
    """
    if scale not in PRESETS:
        raise UserError(f"preset: expected one of {', '.join(PRESETS)}, got '{scale}'{did_you_mean(scale, PRESETS)}")
    config = Config(env=env, preset=scale)
    first, *others = env.split(",")
    suite, _, task = first.partition(":")
    task = "" if others else task
    if suite in ("dmc", "metaworld") or (suite in ("gym", "factory") and _takes_numbers(first)):
        config = _continuous(config)
        if suite == "metaworld":
            config = replace_in(config, "features", objective="contrastive")
            config = dataclasses.replace(replace_in(config, "online", interactions=25_000), episodes=50)
        if task.startswith(("jaco", "reacher")):
            online = {"finetune_epochs": 0.0, "finetune_updates": 100}
            config = replace_in(config, "online", **online, world_model_learning_rate=1e-3, regularisation=1e-3)
        if task.startswith("point_mass"):
            config = replace_in(config, "features", shift_pad=1)
        return _quick_continuous(config, suite, task) if scale == "quick" else config
    if task == "plunder":
        config = replace_in(config, "features", reconstruction_weight=1.0)
    if task in ("miner", "climber", "chaser"):
        config = replace_in(config, "online", predictor_learning_rate=1e-3, regularisation=1.0)
    return _quick_discrete(config) if scale == "quick" else config


def _takes_numbers(env: str) -> bool:
    """Whether the actions of an environment that has to be asked are continuous."""
    from bcvlr_fast.envs import spec

    return spec(env).actions.continuous


def video_paths(config: Config) -> list[Path]:
    """The paths that `videos` names, separated by commas."""
    if config.videos is None:
        return []
    return [config.videos] if config.videos.exists() else [Path(path) for path in str(config.videos).split(",")]


def replace_in(config: Config, section: str, **changes: Any) -> Config:
    changed = dataclasses.replace(getattr(config, section), **changes)
    return dataclasses.replace(config, **{section: changed})


def validate(config: Any, prefix: str = "") -> None:
    """Raise UserError for the first field that is out of its range, not finite, or not among its options."""
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            validate(value, f"{name}.")
        elif "range" in item.metadata:
            low, high = item.metadata["range"]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UserError(f"{name}: expected {low:g} <= value <= {high:g}, got {value}")
        elif typing.get_origin(hints[item.name]) is Literal:
            options = typing.get_args(hints[item.name])
            if value not in options:
                known = tuple(map(str, options))
                raise UserError(
                    f"{name}: expected one of {', '.join(known)}, got '{value}'{did_you_mean(value, known)}"
                )
        elif isinstance(value, tuple) and not (value and all(isinstance(c, int) and 0 < c <= 8192 for c in value)):
            raise UserError(f"{name}: expected one or more widths from 1 to 8192, got {value}")
    if isinstance(config, Config):
        if config.encoder.pretrained and config.features.objective != "none":
            objective = config.features.objective
            raise UserError(f"features.objective: expected none, for encoder.pretrained is frozen, got {objective}")
        window = config.latent_actions.window_frames
        least = window * config.online.num_envs
        if config.online.capacity < least:
            raise UserError(
                f"online.capacity: expected at least {least}, a window of {window} frames for each of "
                f"{config.online.num_envs} environments, got {config.online.capacity}"
            )


def to_json(config: Config) -> str:
    """The configuration as JSON text; `from_json` restores it."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str)


def load(file: Path, scale: str = "paper") -> Config:
    """Config from a JSON file, as `from_json`. Raises UserError where it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    return from_json(text, str(file), scale)


def from_json(text: str, source: str, scale: str = "paper") -> Config:
    """Config from JSON text; fields that it lacks are its preset's, or those of `scale` where it names no preset.

    `source` names the text in errors. Raises UserError for unknown or invalid fields.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source}: expected JSON, got {error}") from None
    where = f"{source}: "
    named = _build(Config(), data, where)  # its types are checked before the preset is looked up
    base = preset(named.env, scale if named.preset == "auto" else named.preset)
    config = _build(base, {**data, "preset": base.preset}, where)
    validate(config)
    return config


def _build(base: Any, data: Any, where: str) -> Any:
    """The dataclass `base` with the fields of the JSON object `data` in place of its own."""
    if not isinstance(data, dict):
        raise UserError(f"{where}expected an object, got {type(data).__name__}")
    fields = tuple(item.name for item in dataclasses.fields(base))
    values = {}
    for key, value in data.items():
        if key not in fields:
            raise UserError(f"{where}unknown field '{key}'{did_you_mean(key, fields)}")
        default = getattr(base, key)
        if dataclasses.is_dataclass(default):
            values[key] = _build(default, value, f"{where}{key}.")
        elif key in ("videos", "labels", "pretrained_weights"):
            if value is not None and not isinstance(value, str):
                raise UserError(f"{where}{key}: expected a path or null, got {value!r}")
            values[key] = None if value is None else Path(value)
        elif isinstance(default, tuple) and isinstance(value, list):
            values[key] = tuple(value)
        elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            values[key] = float(value)
        elif type(value) is not type(default):
            raise UserError(f"{where}{key}: expected {type(default).__name__}, got {value!r}")
        else:
            values[key] = value
    return dataclasses.replace(base, **values)
