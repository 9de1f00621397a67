"""Arguments of the networks that methods share, from their configurations."""

from __future__ import annotations

from typing import Any

from bcvlr_fast.envs.specs import EnvSpec
from bcvlr_fast.methods.bcvlr.config import EncoderConfig, PolicyConfig
from bcvlr_fast.methods.policy import build_encoder


def encoder_arguments(config: EncoderConfig) -> dict[str, Any]:
    """Arguments of the encoder's network, for `build_encoder`."""
    if config.pretrained:
        weights = None if config.pretrained_weights is None else str(config.pretrained_weights)
        return {"model": config.pretrained, "stage": config.pretrained_stage, "weights": weights}
    return {
        "channels": config.channels,
        "stride": config.stride,
        "residual_blocks": config.residual_blocks,
        "plain_layers": config.plain_layers,
    }


def policy_arguments(config: PolicyConfig, latent_dim: int) -> dict[str, Any]:
    """Arguments of the latent policy's network."""
    return {
        "trunk": config.trunk,
        "latent_dim": latent_dim,
        "channels": config.impala_channels,
        "hidden_dim": config.hidden_dim,
        "bottleneck_dim": config.bottleneck_dim,
        "mlp_hidden": config.mlp_hidden,
    }


def network_arguments(
    encoder: EncoderConfig, policy: PolicyConfig, latent_dim: int, decoder_hidden: tuple[int, ...], actions: int
) -> dict[str, dict[str, Any]]:
    """Arguments of f, pi and d, for a `PolicyCard`; `actions` is the width of d's output."""
    return {
        "encoder": encoder_arguments(encoder),
        "policy": policy_arguments(policy, latent_dim),
        "decoder": {"latent_dim": latent_dim, "hidden": decoder_hidden, "actions": actions},
    }


def check_encoder(config: EncoderConfig, frame_stack: int, spec: EnvSpec, restored: bool) -> None:
    """Raises UserError where a pretrained encoder cannot be loaded; `restored` weights come from a checkpoint."""
    if config.pretrained:
        channels, side, _ = spec.frame_shape
        build_encoder(frame_stack * channels, side, encoder_arguments(config), load=not restored)
