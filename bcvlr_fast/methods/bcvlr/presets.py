"""Presets of BCV-LR and their exceptions by task, as one table; `--print-config` names the row of each value."""

from __future__ import annotations

from bcvlr_fast.config.presets import Row, build
from bcvlr_fast.methods.bcvlr.config import Config

_DELAYED = "motion follows actions with a delay, and random actions of single steps cancel out"

CONTINUOUS_NETWORKS = {
    "frame_stack": 3,
    "encoder.channels": 32,
    "encoder.stride": 2,
    "encoder.residual_blocks": 0,
    "encoder.plain_layers": 3,
    "policy.trunk": "mlp",
}
"""f and pi of continuous control in the paper."""
QUICK_NETWORKS = {
    "encoder.channels": 16,
    "encoder.stride": 2,
    "encoder.residual_blocks": 0,
    "encoder.plain_layers": 0,
    "policy.trunk": "impala",
    "policy.impala_channels": (16, 32, 32),
}
"""f and pi of scale `quick`."""

TABLE = (
    # The paper's settings; the class defaults are those of Procgen.
    Row(
        "any",
        "continuous",
        "*",
        {
            "episodes": 10,
            **CONTINUOUS_NETWORKS,
            "features.objective": "prototypes",
            "features.updates": 50_000,
            "features.learning_rate": 1e-4,
            "features.shift_pad": 4,
            "features.projection_dim": 128,
            "latent_actions.updates": 50_000,
            "latent_actions.past_frames": 0,
            "online.interactions": 50_000,
            "online.num_envs": 4,
            "online.round_interactions": 1000,
            "online.capacity": 100_000,
            "online.finetune_epochs": 2.0,
            "online.predictor_learning_rate": 1e-3,
            "online.world_model_learning_rate": 1e-5,
            "online.regularisation": 1e-5,
            "online.clone_updates": 1000,
            "online.clone_learning_rate": 1e-3,
        },
        "continuous control, as in the paper and the official code for DMControl",
    ),
    Row(
        "any",
        "continuous",
        "metaworld:*",
        {"episodes": 50, "features.objective": "contrastive", "online.interactions": 25_000},
        "the paper's appendix",
    ),
    Row(
        "any",
        "continuous",
        "*:jaco* *:reacher*",
        {
            "online.finetune_epochs": 0.0,
            "online.finetune_updates": 100,
            "online.world_model_learning_rate": 1e-3,
            "online.regularisation": 1e-3,
        },
        "the paper's appendix and official code",
    ),
    Row("any", "continuous", "*:point_mass*", {"features.shift_pad": 1}, "the paper's appendix and official code"),
    Row("any", "discrete", "*:plunder", {"features.reconstruction_weight": 1.0}, "the paper's appendix"),
    Row(
        "any",
        "discrete",
        "*:miner *:climber *:chaser",
        {"online.predictor_learning_rate": 1e-3, "online.regularisation": 1.0},
        "the paper's appendix",
    ),
    # Minutes on two CPU cores: narrow networks, half-size feature maps, a fraction of the updates.
    Row(
        "quick",
        "any",
        "*",
        {
            **QUICK_NETWORKS,
            "features.batch_size": 128,
            "features.learning_rate": 5e-4,
            "features.projection_dim": 128,
            "features.hidden_dim": 256,
            "latent_actions.updates": 300,
            "latent_actions.impala_channels": (16, 32, 32),
            "latent_actions.motion_gain": 8.0,
            "latent_actions.ema_decay": 0.99,
            "latent_actions.restart_below": 0.02,
            "latent_actions.world_model_width": 16,
            "latent_actions.world_model_output": "residual",
            "policy.learning_rate": 1e-3,
            "online.finetune_batch_size": 128,
            "online.regularisation": 0.0,
            "online.decoder_hidden": (128,),
        },
        "minutes on two CPU cores",
    ),
    Row(
        "quick",
        "discrete",
        "*",
        {
            "optimizer": "muon",
            "expert_frames": 200_000,
            "features.updates": 200,
            "latent_actions.learning_rate": 1e-3,
            "latent_actions.future_frames": 3,
            "policy.batch_size": 64,
            "policy.learning_rate": 2e-3,
            "policy.updates": 600,
            "policy.shift_pad": 2,
            "online.exploration": 0.5,
            "online.exploration_steps": 6,
            "online.capacity": 30_000,
            "online.finetune_updates": 240,
            "online.finetune_shift_pad": 3,
            "online.predictor_learning_rate": 1e-3,
            "online.clone_updates": 320,
            "online.clone_batch_size": 64,
            "online.clone_learning_rate": 1.4e-3,
            "final.learning_rate": 2e-3,
        },
        "minutes on two CPU cores",
    ),
    Row(
        "quick",
        "continuous",
        "*",
        {
            "episodes": 50,
            "expert_frames": 50_000,
            "still_share": 0.5,
            "features.updates": 300,
            "features.prototypes": 64,
            "latent_actions.world_model_start": "zero",
            "policy.stack_dropout": 0.5,
            "policy.updates": 800,
            "online.interactions": 10_000,
            "online.num_envs": 10,
            "online.round_interactions": 2000,
            "online.finetune_epochs": 0.0,
            "online.finetune_updates": 400,
            "online.finetune_shift_pad": 4,
            "online.world_model_learning_rate": 0.0,
            "online.clone_updates": 1600,
            "online.clone_anneal": True,
        },
        "minutes on two CPU cores",
    ),
    Row("quick", "continuous", "metaworld:* *:jaco*", {"expert_frames": 15_000}, "they are the slowest to render"),
    Row(
        "quick",
        "continuous",
        "*:reacher*",
        {"expert_steps": 75},
        "the expert reaches its goal after 30 of 500 steps and then stands still",
    ),
    Row(
        "quick",
        "continuous",
        "*:finger*",
        {"policy.stack_dropout": 0.0},
        "when to strike depends on how fast the spinner turns, which the newest frame alone does not show",
    ),
    Row(
        "quick",
        "continuous",
        "metaworld:*",
        {"latent_actions.future_frames": 3, "online.exploration": 0.5, "online.exploration_steps": 4},
        _DELAYED,
    ),
    Row(
        "quick",
        "continuous",
        "*:point_mass*",
        {"latent_actions.future_frames": 3, "online.exploration": 0.5, "online.exploration_steps": 8},
        _DELAYED,
    ),
)


def preset(env: str | tuple[str, ...], scale: str) -> Config:
    """The configuration of an environment, or of several that share a pretraining, at scale `paper` or `quick`.

    Raises UserError for an unknown scale or environment.
    """
    return build(Config(), TABLE, (env,) if isinstance(env, str) else env, scale).config
