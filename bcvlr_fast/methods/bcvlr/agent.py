"""The networks of BCV-LR: f, p, the codebook, w, pi and d."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcvlr_fast.envs.specs import EnvSpec
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.networks import encoder_arguments, network_arguments, policy_arguments
from bcvlr_fast.methods.policy import Policy, PolicyCard, build_encoder
from bcvlr_fast.nn.latent_actions import Codebook, LatentActionPredictor
from bcvlr_fast.nn.policy import ActionDecoder, LatentPolicy
from bcvlr_fast.nn.world_model import WorldModel
from bcvlr_fast.training.compute import Compute


class Agent(nn.Module):
    """f (`encoder`), p (`predictor`), `codebook`, w (`world_model`), pi (`policy`) and d (`decoder`)."""

    def __init__(self, config: Config, spec: EnvSpec, compute: Compute, *, restored: bool = False) -> None:
        """`restored` networks get their weights from a checkpoint, including those of a pretrained encoder."""
        super().__init__()
        channels, side, width = spec.frame_shape
        if side != width:
            raise ValueError(f"frame_shape: expected square frames, got {side}x{width}")
        self.config, self.spec, self.compute = config, spec, compute
        latent = config.latent_actions
        self.window = config.window
        self.encoder = build_encoder(
            config.frame_stack * channels, side, encoder_arguments(config.encoder), load=not restored
        )
        self.predictor = LatentActionPredictor(
            self.encoder,
            window_frames=self.window.observations,
            channels=latent.impala_channels,
            hidden_dim=latent.hidden_dim,
            latent_dim=latent.latent_dim,
            motion_gain=latent.motion_gain,
        )
        self.codebook = Codebook(
            codebooks=latent.codebooks,
            codes=latent.codes,
            code_dim=latent.code_dim,
            decay=latent.ema_decay,
            restart_below=latent.restart_below,
            first_count=1.0 if latent.codebook_start == "counted" else 0.0,
        )
        self.world_model = WorldModel(
            self.encoder,
            context_frames=self.window.past + 1,
            latent_dim=latent.latent_dim,
            width=latent.world_model_width,
            output=latent.world_model_output,
            zero_start=latent.world_model_start == "zero",
        )
        self.policy = LatentPolicy(self.encoder, **policy_arguments(config.policy, latent.latent_dim))
        self.decoder = ActionDecoder(latent.latent_dim, config.online.decoder_hidden, spec.actions.size)
        compute.network(self)
        self.eval()  # a learner puts what it trains into training mode

    def acting_policy(self) -> Policy:
        """d(pi(f(observation))), which shares this agent's networks."""
        config = self.config
        networks = network_arguments(
            config.encoder,
            config.policy,
            config.latent_actions.latent_dim,
            config.online.decoder_hidden,
            self.spec.actions.size,
        )
        card = PolicyCard.of(config, self.spec, networks, config.online.exploration_noise)
        return Policy(card, self.encoder, self.policy, self.decoder, self.compute)

    def latent_action(self, features: Tensor) -> Tensor:
        """z = p(features) [B, latent_dim] float32, before quantization, from features of each frame [F * B, C, ...]."""
        with self.compute.autocast():
            z: Tensor = self.predictor(features).float()
        return z

    def decode(self, z: Tensor) -> Tensor:
        """d(z) [B, A] float32: logits of discrete actions, or values of continuous ones."""
        with self.compute.autocast():
            decoded: Tensor = self.decoder(z).float()
        return decoded

    @torch.no_grad()
    def frame_features(self, frames: Tensor, index: Tensor, offset: Tensor | None = None, pad: int = 0) -> Tensor:
        """f of every observation of a batch of windows, frame by frame: [F * B, C, side, side].

        The windows are frames[index] with index [stack - 1 + F, B]. All frames of a window share one random shift
        `offset` [B, 2], as in `random_shift`.
        """
        stack, compute = self.window.stack, self.compute
        stacks = index.unfold(0, stack, 1)  # [F, B, stack]
        offset = None if offset is None else offset.repeat(len(stacks), 1)
        pixels = random_shift(
            frames, stacks.reshape(-1, stack), offset, pad=pad, dtype=compute.dtype, memory_format=compute.memory_format
        )
        with compute.autocast():
            features: Tensor = self.encoder(pixels)
        return features
