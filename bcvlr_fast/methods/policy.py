"""Policy: what acts, and nothing else. Saved as policy.safetensors and policy.json."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.envs.specs import Actions, EnvSpec
from bcvlr_fast.nn.encoder import Encoder
from bcvlr_fast.nn.policy import ActionDecoder, LatentPolicy
from bcvlr_fast.nn.pretrained import PretrainedEncoder
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training.compute import Compute, choose_compute, choose_device
from bcvlr_fast.training.graph import capture

CARD, WEIGHTS = "policy.json", "policy.safetensors"
_FORMAT = 1
_UNSTUCK_TEMPERATURE = 0.5


@dataclass(frozen=True)
class PolicyCard:
    """The observations and actions of a policy, and the arguments of its networks."""

    env: str
    """suite:task that it was learned for."""
    method: str
    frame_shape: tuple[int, int, int]
    """(C, H, W) of one uint8 frame."""
    frame_stack: int
    """Frames of an observation, oldest first, concatenated along the channels."""
    actions: Actions
    precision: str = "auto"
    """Precision that the run asked for: auto, fp32 or bf16."""
    rendering: str = "stock"
    """MuJoCo rendering of the frames that it learned from."""
    exploration_noise: float = 0.0
    """Standard deviation of the noise on sampled continuous actions."""
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Arguments of the encoder, the latent policy and the action decoder."""
    scale: float = 1 / 255
    """Factor on the pixels, applied before `shift` is added."""
    shift: float = -0.5

    @classmethod
    def of(
        cls, config: RunConfig, spec: EnvSpec, networks: dict[str, dict[str, Any]], exploration_noise: float = 0.0
    ) -> PolicyCard:
        """The card of the policy that a run of `config` learns, with the arguments of its networks."""
        return cls(
            config.first_env,
            config.method,
            spec.frame_shape,
            config.frame_stack,
            spec.actions,
            config.precision,
            config.rendering,
            exploration_noise,
            networks,
        )

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(frame_stack * C, H, W)."""
        channels, height, width = self.frame_shape
        return self.frame_stack * channels, height, width


class Policy(nn.Module):
    """d(pi(f(observation))): actions from frames, in plain PyTorch, so that it exports.

    Discrete actions are numbered from 0 and continuous ones lie in -1..1; `card.actions` has the environment's own
    numbers.
    """

    def __init__(self, card: PolicyCard, encoder: nn.Module, policy: nn.Module, decoder: nn.Module, compute: Compute):
        super().__init__()
        self.card, self.compute = card, compute
        self.encoder, self.policy, self.decoder = encoder, policy, decoder

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of discrete actions, or continuous actions before clipping, [B, A] float32, of observations
        [B, frame_stack * C, H, W] uint8."""
        pixels = frames.float().mul(self.card.scale).add(self.card.shift).to(self.compute.dtype)
        return self.decode(pixels.contiguous(memory_format=self.compute.memory_format))

    def decode(self, pixels: Tensor) -> Tensor:
        """Like `forward`, for normalized observations [B, frame_stack * C, H, W] in -0.5..0.5."""
        with self.compute.autocast():
            return cast(Tensor, self.decoder(self.policy(self.encoder(pixels))).float())

    @overload
    def act(
        self, frames: np.ndarray, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> np.ndarray: ...
    @overload
    def act(self, frames: Tensor, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor: ...
    @torch.no_grad()
    def act(
        self, frames: np.ndarray | Tensor, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> np.ndarray | Tensor:
        """Actions [B] int64 or [B, A] float32 in -1..1 for observations [B, frame_stack * C, H, W] uint8.

        Greedy without a generator, else sampled with it: discrete actions at a temperature, continuous ones with
        Gaussian noise. Arrays give arrays, tensors on the policy's device give tensors. Raises ValueError for frames of
        another shape or type.
        """
        if isinstance(frames, np.ndarray):
            tensor = torch.from_numpy(frames).to(self.compute.device)
            return self.act(tensor, generator, temperature).cpu().numpy()
        if frames.dtype != torch.uint8 or frames.shape[1:] != self.card.observation_shape:
            expected = f"uint8 {['B', *self.card.observation_shape]}"
            raise ValueError(f"frames: expected {expected}, got {frames.dtype} {list(frames.shape)}")
        decoded = self(frames)
        if self.card.actions.continuous:
            if generator is not None:
                decoded = decoded + self.card.exploration_noise * torch.empty_like(decoded).normal_(generator=generator)
            return cast(Tensor, decoded.clamp(-1, 1))
        if generator is None:
            return cast(Tensor, decoded.argmax(dim=1))
        # The first exponential clock to ring is a sample; torch.multinomial would check its input on the host.
        clocks = torch.empty_like(decoded).exponential_(generator=generator)
        return cast(Tensor, ((decoded / temperature).softmax(dim=1) / clocks).argmax(dim=1))

    def unstuck(self, num_envs: int, seed: int = 0) -> Unstuck:
        """Acts in `num_envs` environments, at random where it has been before; `seed` is that of the draws.

        Raises ValueError for continuous actions.
        """
        return Unstuck(self, num_envs, seed)

    def save(self, folder: Path) -> None:
        """Writes policy.safetensors and policy.json into `folder`."""
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS)
        (folder / CARD).write_text(json.dumps({"format": _FORMAT, **asdict(self.card)}, indent=1))

    @classmethod
    def load(cls, folder: Path, device: str = "auto", precision: str | None = None) -> Policy:
        """The policy that `save` wrote into `folder`, by default in the precision of its run.

        Raises UserError naming the file that is missing or damaged.
        """
        card = _read_card(folder / CARD)
        policy = build_policy(card, choose_compute(choose_device(device), precision or card.precision))
        file = folder / WEIGHTS
        try:
            policy.load_state_dict(load_file(file))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"policy: {file}: expected the weights of a policy ({_on_one_line(error)})") from None
        return policy


class Unstuck:
    """Acts with discrete actions drawn at temperature 0.5, but at random where it has been before.

    A function of the observation does the same whenever it comes back to one, so it may walk against a wall or in
    circles for good where nothing else moves. Here an observation that equals an earlier one of its episode in every
    pixel gets a uniformly random action. The temperature is a compromise: games of reaction want the most probable
    action, in others it leads in circles that cannot be seen, because something else moves.
    """

    def __init__(self, policy: Policy, num_envs: int, seed: int) -> None:
        if policy.card.actions.continuous:
            raise ValueError("unstuck: expected a policy with discrete actions")
        self.policy = policy
        self._random = np.random.default_rng(seed)
        self._generator = torch.Generator(policy.compute.device).manual_seed(seed)
        self._seen: list[set[bytes]] = [set() for _ in range(num_envs)]

    def act(self, frames: np.ndarray, first: np.ndarray, envs: np.ndarray | None = None) -> np.ndarray:
        """Actions [B] int64 for observations [B, frame_stack * C, H, W] uint8 of the environments `envs` [B], by
        default all; `first` [B] bool says which of them begin an episode. Raises ValueError as `Policy.act`."""
        drawn = self.policy.act(frames, self._generator, _UNSTUCK_TEMPERATURE)
        numbers = np.arange(len(frames)) if envs is None else envs
        repeated = [self._remember(*each) for each in zip(numbers, first, frames, strict=True)]
        return np.where(repeated, self.policy.card.actions.draw(self._random, len(frames)), drawn)

    def _remember(self, env: int, first: bool, frame: np.ndarray) -> bool:
        """Whether the environment has shown the observation before in its episode."""
        seen, digest = self._seen[env], hashlib.blake2b(frame.tobytes(), digest_size=8).digest()
        if first:
            seen.clear()
        repeated = digest in seen
        seen.add(digest)
        return repeated


def _read_card(file: Path) -> PolicyCard:
    """The card that `Policy.save` wrote. Raises UserError where it is missing or not a card."""
    try:
        data = json.loads(file.read_text())
        if (written := data.pop("format")) != _FORMAT:
            raise ValueError(f"format: expected {_FORMAT}, got {written}")
        data["frame_shape"] = tuple(data["frame_shape"])
        actions: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["actions"].items()}
        data["actions"] = Actions(**actions)
        return PolicyCard(**data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"policy: {file}: expected the card of a policy ({_on_one_line(error)})") from None


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def build_policy(card: PolicyCard, compute: Compute, *, load: bool = False) -> Policy:
    """A policy with the networks that its card describes, with new weights; `load` as in `build_encoder`."""
    channels, height, _ = card.observation_shape
    networks = card.networks
    encoder = build_encoder(channels, height, networks["encoder"], load=load)
    policy = Policy(
        card, encoder, LatentPolicy(encoder, **networks["policy"]), ActionDecoder(**networks["decoder"]), compute
    )
    compute.network(policy)
    return policy.eval()


def build_encoder(in_channels: int, side: int, arguments: dict[str, Any], *, load: bool) -> Encoder:
    """The encoder f, or the pretrained network in its place (`load` fetches its published weights)."""
    if "model" in arguments:
        return PretrainedEncoder(in_channels, side, **arguments, load=load)
    return Encoder(in_channels, side, **arguments)


class Actor:
    """Samples actions of a policy for up to `num_envs` environments.

    On a GPU this is one graph, including the copies from and to pinned memory.
    """

    def __init__(self, policy: Policy, num_envs: int, generator: torch.Generator) -> None:
        device = policy.compute.device
        pinned = device.type == "cuda"
        self._policy, self._generator = policy, generator
        self._host_frames = torch.zeros(
            (num_envs, *policy.card.observation_shape), dtype=torch.uint8, pin_memory=pinned
        )
        self._frames = torch.empty_like(self._host_frames, device=device)
        actions = torch.from_numpy(policy.card.actions.empty(num_envs))
        self._actions = actions.pin_memory() if pinned else actions
        self._choose = capture(self._act, device, generator)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Actions [k, ...] for observations [k, stack * C, H, W] uint8, k up to num_envs."""
        self._host_frames[: len(frames)].copy_(torch.from_numpy(frames))
        self._choose()
        if self._frames.is_cuda:
            torch.cuda.current_stream(self._frames.device).synchronize()
        return self._actions[: len(frames)].numpy().copy()

    def _act(self) -> None:
        self._frames.copy_(self._host_frames, non_blocking=True)
        self._actions.copy_(self._policy.act(self._frames, self._generator), non_blocking=True)
