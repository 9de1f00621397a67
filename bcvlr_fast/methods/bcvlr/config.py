"""Settings of BCV-LR, a section for each network and phase.

Defaults follow the BCV-LR paper (arXiv 2512.21586) and, where it is silent, the authors' code. Importing this module
imports neither torch nor an environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bcvlr_fast.config.fields import number, setting
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.config.window import Window
from bcvlr_fast.system.errors import UserError


@dataclass(frozen=True)
class EncoderConfig:
    """Network f, the self-supervised encoder: a 3x3 convolution, then residual blocks or plain convolutions."""

    channels: int = number(16, 1, 1024)
    """Channels of the feature map."""
    stride: Literal[1, 2, 4] = 1
    """Stride of the first convolution. 2 halves the feature map's side and quarters the cost of all that follows."""
    residual_blocks: int = number(2, 0, 16)
    """Residual blocks after the first convolution. 0 adds none."""
    plain_layers: int = number(0, 0, 16, before=0)
    """Plain 3x3 convolutions after the first one, with a ReLU after each. 0 adds none, and the first has no ReLU."""
    pretrained: str = setting("", before="")
    """Frozen timm model in place of f, such as resnet18 (extra [timm]). Empty: f is trained."""
    pretrained_weights: Path | None = setting(None, before=None)  # noqa: RUF009
    """Safetensors file with the weights of the timm model. None: timm downloads its published weights."""
    pretrained_stage: int = number(1, 0, 8, before=1)
    """Which feature map of the timm model to use, counted from the largest, 0."""


@dataclass(frozen=True)
class FeaturesConfig:
    """Phase 1: f learns by contrast of two random shifts and by reconstruction (Eq. 1), or by prototypes (Eq. 10)."""

    objective: Literal["contrastive", "contrastive+reconstruction", "prototypes", "none"] = setting(
        "contrastive+reconstruction", before="contrastive+reconstruction"
    )
    """Loss of the encoder. contrastive: two random shifts of one observation; prototypes: an observation and the next;
    none: the encoder is not trained."""
    updates: int = number(20_000, 0)
    """Gradient updates of the phase. 0 skips it."""
    batch_size: int = number(512, 2, 65_536)
    """Observations per update."""
    learning_rate: float = number(3e-5, 0, 10)
    """Learning rate of the optimizer."""
    shift_pad: int = number(1, 0, 32)
    """Maximum random shift of a frame, in pixels. 0 shifts nothing."""
    shift_mode: Literal["integer", "bilinear"] = "integer"
    """How random shifts sample. integer: an exact crop with a replicated border; bilinear: the official half-pixel
    blend."""
    projection_dim: int = number(256, 1, 8192)
    """Width of the projection in which observations are compared."""
    hidden_dim: int = number(512, 1, 8192)
    """Width of the hidden layer of the prediction head."""
    target_rate: float = number(0.05, 0, 1)
    """Fraction of the online weights that enters the EMA target network at each of its updates. 0 freezes it."""
    target_every: int = number(2, 1, 16)
    """Gradient updates between updates of the EMA target network."""
    reconstruction_weight: float = number(0.1, 0, 1e4)
    """Weight of the reconstruction loss beside the contrastive loss."""
    train_reconstruction: bool = True
    """Train the pixel decoder. False leaves it at its random start, as the official optimizer does."""
    prototypes: int = number(512, 2, 65_536, before=512)
    """Number of prototypes."""
    temperature: float = number(0.1, 0.025, 100, before=0.1)
    """Temperature of the softmax over prototypes."""
    sinkhorn_iterations: int = number(3, 1, 100, before=3)
    """Sinkhorn iterations that balance the assignment to prototypes."""


@dataclass(frozen=True)
class LatentActionsConfig:
    """Phase 2: predictor p, the codebook and world model w learn latent actions (Eq. 2)."""

    updates: int = number(10_000, 0)
    """Gradient updates of the phase. 0 skips it."""
    batch_size: int = number(128, 2, 65_536)
    """Windows per update."""
    learning_rate: float = number(3e-4, 0, 10)
    """Learning rate of the optimizer."""
    weight_decay: float = number(0.01, 0, 10)
    """Weight decay of the optimizer."""
    grad_clip: float = number(2.0, 0, 1e6)
    """Maximum norm of the gradient."""
    past_frames: int = number(1, 0, 8)
    """Frames before o_t that p and w see beside it. The policy sees o_t alone."""
    future_frames: int = number(1, 1, 8, before=1)
    """Frames after o_t that p sees; the paper uses 1. Actions with a late effect need more: a shot in bossfight is
    invisible in o_{t+1} and one or two pixels large in o_{t+2}."""
    impala_channels: tuple[int, ...] = (64, 128, 128)
    """Channels of each block of the predictor's convolutional trunk."""
    hidden_dim: int = number(256, 1, 8192)
    """Width of the predictor's last hidden layer."""
    codebooks: int = number(2, 1, 64)
    """Number of codebooks."""
    codes: int = number(64, 2, 65_536)
    """Codes per codebook."""
    code_dim: int = number(16, 1, 1024)
    """Width of a code."""
    positions: int = number(4, 1, 64)
    """Codes per codebook that make up one latent action."""
    motion_gain: float = number(0.0, 0, 1000, before=0.0)
    """Factor on the changes from frame to frame, which p sees with the last frame in place of the frames. The function
    class stays the same, but small moving sprites stand out from the start. 0 shows the frames."""
    commitment: float = number(0.05, 0, 1e4)
    """Weight of the commitment loss, which pulls latent actions to their codes."""
    ema_decay: float = number(0.999, 0, 1)
    """Decay of the moving averages that move the codes."""
    codebook_start: Literal["counted", "zero"] = "counted"
    """Initial EMA count of every code. counted: one; zero: zero, as in the official code."""
    restart_below: float = number(0.0, 0, 1e6)
    """EMA count below which a code restarts at a latent action of the batch. 0 never restarts one."""
    world_model_width: int = number(24, 1, 1024)
    """Channels of the world model's first level."""
    world_model_output: Literal["tanh_half", "linear", "residual"] = "tanh_half"
    """Output of the world model. tanh_half: bounded by 1/2, as in the official code; linear: unbounded; residual: the
    last frame's features plus a change."""
    world_model_start: Literal["random", "zero"] = setting("random", before="random")
    """Initial last layer of the world model. zero: a residual output starts as a copy of the last frame's features."""

    @property
    def latent_dim(self) -> int:
        """Width of a latent action."""
        return self.codebooks * self.code_dim * self.positions


@dataclass(frozen=True)
class PolicyConfig:
    """Phase 3: latent policy pi clones the latent actions of the videos (Eq. 4)."""

    trunk: Literal["impala", "mlp"] = setting("impala", before="impala")
    """Trunk of the policy. impala: convolutions; mlp: a normalized bottleneck and fully connected layers."""
    updates: int = number(60_000, 0)
    """Gradient updates of the phase. 0 skips it."""
    batch_size: int = number(128, 1, 65_536)
    """Observations per update."""
    learning_rate: float = number(2e-4, 0, 10)
    """Learning rate of the optimizer."""
    weight_decay: float = number(0.01, 0, 10)
    """Weight decay of the optimizer."""
    impala_channels: tuple[int, ...] = (64, 128, 128)
    """Channels of each block of the impala trunk."""
    hidden_dim: int = number(256, 1, 8192)
    """Width of the last hidden layer of the impala trunk."""
    bottleneck_dim: int = number(50, 1, 8192, before=50)
    """Width of the normalized bottleneck of the mlp trunk."""
    mlp_hidden: tuple[int, ...] = setting((1024, 1024), before=(1024, 1024))
    """Widths of the hidden layers of the mlp trunk."""
    shift_pad: int = number(0, 0, 32)
    """Maximum random shift of the observations that pi clones from, in pixels. 0, the paper's, shifts nothing."""
    stack_dropout: float = number(0.0, 0, 1, before=0.0)
    """Fraction of the stacks that pi clones from in which the newest frame replaces the earlier ones. From
    motion alone, pi would learn to continue its last motion and never to leave a standstill. 0, the paper's, replaces
    none."""


@dataclass(frozen=True)
class OnlineConfig:
    """Phase 4: rounds of acting, of fine-tuning p with the action decoder d (Eq. 3), and of cloning."""

    interactions: int = number(100_000, 1)
    """Environment steps in total, random ones included and resets excluded."""
    num_envs: int = number(64, 1, 4096)
    """Environments that are stepped together."""
    round_interactions: int = number(4096, 1)
    """Environment steps per round."""
    exploration: float = number(0.0, 0, 1, before=0.0)
    """Fraction of random actions after the first round. 0 is the paper's."""
    exploration_steps: int = number(1, 1, 1000, before=1)
    """Steps for which a random action is held, also in the first round. 1 is the paper's."""
    exploration_noise: float = number(0.5, 0, 10, before=0.5)
    """Standard deviation of the Gaussian noise on continuous actions, in units of their range -1 to 1. 0 adds none."""
    capacity: int = number(20_000, 64)
    """Transitions that the replay buffer holds; the oldest are dropped first."""
    finetune_updates: int = number(60, 0)
    """Fine-tuning updates per round. 0 skips fine-tuning."""
    finetune_epochs: float = number(0.0, 0, 1000, before=0.0)
    """Fine-tuning passes over the replay buffer per round, in place of finetune_updates. 0 uses finetune_updates."""
    finetune_batch_size: int = number(512, 2, 65_536)
    """Windows per fine-tuning update."""
    finetune_shift_pad: int = number(0, 0, 32, before=0)
    """Maximum random shift of the windows in fine-tuning, in pixels, equal for all frames of a window. 0, the paper's,
    shifts nothing."""
    predictor_learning_rate: float = number(2e-5, 0, 10)
    """Learning rate of predictor p in fine-tuning. 0 leaves p as it is."""
    decoder_learning_rate: float = number(1e-3, 0, 10)
    """Learning rate of action decoder d."""
    world_model_learning_rate: float = number(0.0, 0, 10, before=0.0)
    """Learning rate of world model w in fine-tuning. 0 leaves its weights as they are."""
    regularisation: float = number(15.0, 0, 1e6)
    """beta: weight of the world-model error and the commitment loss beside the action loss. 0 computes neither."""
    world_model_norm: Literal["train", "eval"] = "train"
    """Batch normalization of w in fine-tuning. train: by batch, updating its statistics, as in the official code; eval:
    by the statistics as they are."""
    decoder_hidden: tuple[int, ...] = (192, 128, 64)
    """Widths of the hidden layers of action decoder d."""
    clone_updates: int = number(500, 0)
    """Cloning updates per round. 0 skips cloning."""
    clone_batch_size: int = number(128, 1, 65_536)
    """Observations per cloning update."""
    clone_learning_rate: float = number(2e-4, 0, 10)
    """Learning rate of cloning."""
    clone_anneal: bool = setting(False, before=False)
    """Anneal the cloning learning rate linearly to 0 in the last round. The paper does not."""

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return -(-self.interactions // self.round_interactions)

    def round_end(self, number: int) -> int:
        """Interactions after round `number`, the first of which is 0."""
        return min((number + 1) * self.round_interactions, self.interactions)

    def finetune_updates_for(self, kept: int) -> int:
        """Fine-tuning updates of a round with `kept` transitions in the replay buffer."""
        if self.finetune_epochs:
            return round(self.finetune_epochs * kept / self.finetune_batch_size)
        return self.finetune_updates


@dataclass(frozen=True)
class FinalCloningConfig:
    """Phase 5, which the paper does not have: pi clones once more when p and d are final, as `policy` says."""

    updates: int = number(0, 0, before=0)
    """Gradient updates of the phase. 0, the paper's, skips it."""
    learning_rate: float = number(1e-3, 0, 10, before=1e-3)
    """Learning rate at the start of the phase; it falls linearly to 0."""
    decoded_weight: float = number(1.0, 0, 1e4, before=1.0)
    """Weight of the difference between the actions decoded from pi and from the latent actions, beside Eq. 4 over the
    variance of the latent actions; in the rounds, too, where there is a last phase. 0 leaves Eq. 4 alone."""


@dataclass(frozen=True)
class Config(RunConfig):
    """All settings of a run of BCV-LR."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    latent_actions: LatentActionsConfig = field(default_factory=LatentActionsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    final: FinalCloningConfig = field(default_factory=FinalCloningConfig)

    @property
    def window(self) -> Window:
        """The observations around o_t that p sees."""
        return Window(self.latent_actions.past_frames, self.latent_actions.future_frames, self.frame_stack)

    def check(self) -> None:
        """Raises UserError where settings contradict each other."""
        super().check()
        objective, window = self.features.objective, self.window.observations
        if self.encoder.pretrained and objective != "none":
            raise UserError(f"features.objective: expected none, for encoder.pretrained is frozen, got {objective}")
        minimum = window * self.online.num_envs
        if self.online.capacity < minimum:
            raise UserError(
                f"online.capacity: expected at least {minimum}, a window of {window} frames for each of "
                f"{self.online.num_envs} environments, got {self.online.capacity}"
            )
