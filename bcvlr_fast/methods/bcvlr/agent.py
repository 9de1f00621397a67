"""The networks of a run, and the policy that they make together."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bcvlr_fast.envs.specs import EnvSpec
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.latent_actions import Codebook, LatentActionPredictor
from bcvlr_fast.nn.policy import ActionDecoder, LatentPolicy
from bcvlr_fast.nn.pretrained import PretrainedEncoder
from bcvlr_fast.nn.world_model import WorldModel
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.graph import capture


class Agent(nn.Module):
    """f, p, codebook, w, pi and d. The policy is d(pi(f(observation)))."""

    def __init__(self, config: Config, spec: EnvSpec, compute: Compute, restored: bool = False) -> None:
        """`restored`: its weights come from a checkpoint, those of an encoder off the shelf too."""
        super().__init__()
        channels, side, width = spec.frame_shape
        if side != width:
            raise ValueError(f"frame_shape: expected square frames, got {side}x{width}")
        self.compute, self.spec = compute, spec
        self.observation_shape = (config.frame_stack * channels, side, side)
        self.noise = config.online.exploration_noise
        latent = config.latent_actions
        seen = config.frame_stack * channels, side
        self.encoder = (
            PretrainedEncoder(config.encoder, *seen, load=not restored)
            if config.encoder.pretrained
            else Encoder(config.encoder, *seen)
        )
        self.predictor = LatentActionPredictor(latent, self.encoder)
        self.codebook = Codebook(latent)
        self.world_model = WorldModel(latent, self.encoder)
        self.policy = LatentPolicy(config.policy, latent, self.encoder)
        self.decoder = ActionDecoder(latent.latent_dim, config.online.decoder_hidden, spec.actions.size)
        compute.network(self)
        self.eval()  # stages put in training mode what they train

    @torch.no_grad()
    def decoded(self, frames: Tensor) -> Tensor:
        """Action logits, or the numbers of continuous actions, [B, A] float32 for observations [B, stack * C, H, W]
        uint8 on the device."""
        index = torch.arange(len(frames), device=frames.device)[:, None]
        pixels = random_shift(frames, index, dtype=self.compute.dtype)
        with self.compute.autocast():
            return cast(Tensor, self.decoder(self.policy(self.encoder(pixels))).float())

    def act(self, frames: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions [B] int64, or [B, A] in -1..1, for observations [B, stack * C, H, W] uint8: sampled with the
        generator (continuous ones with noise), greedy without one."""
        decoded = self.decoded(frames)
        if self.spec.actions.continuous:
            if generator is not None:
                decoded = decoded + self.noise * torch.empty_like(decoded).normal_(generator=generator)
            return decoded.clamp(-1, 1)
        if generator is None:
            return decoded.argmax(dim=1)
        # The first of exponential clocks to ring; torch.multinomial would check its input on the host.
        clocks = torch.empty_like(decoded).exponential_(generator=generator)
        return (decoded.softmax(dim=1) / clocks).argmax(dim=1)


class Actor:
    """The policy sampling actions for up to `num_envs` environments: on a GPU one graph, copies from and to pinned
    memory included."""

    def __init__(self, agent: Agent, num_envs: int, generator: torch.Generator) -> None:
        device = agent.compute.device
        pinned = device.type == "cuda"
        self._agent, self._generator = agent, generator
        self._seen = torch.zeros((num_envs, *agent.observation_shape), dtype=torch.uint8, pin_memory=pinned)
        self._frames = torch.empty_like(self._seen, device=device)
        chosen = torch.from_numpy(agent.spec.actions.empty(num_envs))
        self._chosen = chosen.pin_memory() if pinned else chosen
        self._choose = capture(self._act, device, generator)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Actions [k, ...] for observations [k, stack * C, H, W] uint8, k up to num_envs."""
        self._seen[: len(frames)].copy_(torch.from_numpy(frames))
        self._choose()
        if self._frames.is_cuda:
            torch.cuda.current_stream(self._frames.device).synchronize()
        return self._chosen[: len(frames)].numpy().copy()

    def _act(self) -> None:
        self._frames.copy_(self._seen, non_blocking=True)
        self._chosen.copy_(self._agent.act(self._frames, self._generator), non_blocking=True)
