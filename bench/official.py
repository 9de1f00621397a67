"""Runs an official implementation, discrete or continuous, as a process that takes commands, for bench_update.py.

python bench/official.py CHECKOUT FRAMES.npy DEVICE

Its own classes, losses, optimizers and data loader run as in its scripts (with `tensordict` and `funcy`); no simulator,
experiment tracker, or GPU with index 2 or 3 is needed. Commands arrive on stdin, and each is answered by a JSON object
on stdout: `check FILE` computes the losses of all phases on a small batch and saves weights and batch; `prepare PHASE`;
`update` returns the seconds that the update and its loading took.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

_CHECKED = 8  # number of windows


def suite_of(folder: Path) -> str | None:
    """Suite of a checkout of the official code: procgen or dmc; None if the folder is not one."""
    if not (folder / "run_offline.py").exists():
        return None
    return "dmc" if (folder / "dmc.py").exists() else "procgen"


class Official:
    """Modules of a checkout, and networks, optimizers and data of one phase, for the discrete code."""

    loader: Any
    replay: Any
    utils: Any

    actions = 15
    window_frames = 3
    chunk_frames = 32_768
    features_update = "update_repre_addreconstruct"
    policy_parts: tuple[str, ...] = ("conv_stack", "fc", "policy_head")
    cloning_rate = 2e-4
    labels_in_training = False
    """Whether cloning keeps the labeling network in training mode, in which its codes are updated."""

    def __init__(self, checkout: Path, frames: Path, device: str) -> None:
        for absent in ("gym", "procgen", "wandb", "omegaconf", "doy"):
            with contextlib.suppress(ImportError):
                __import__(absent)
                continue
            sys.modules[absent] = MagicMock()
        sys.path.insert(0, str(checkout))
        self.frames = np.load(frames, mmap_mode="r")
        self._work = tempfile.TemporaryDirectory()
        os.chdir(self._work.name)
        Path("expert_data").mkdir()  # its paths module expects it
        self.device = torch.device(device)
        vars(importlib.import_module("config"))["DEVICE"] = self.device  # before other modules import it
        self.loader, self.replay, self.utils = (
            importlib.import_module(name) for name in ("data_loader", "replay_buffer_tensordict", "utils")
        )
        utils = self.utils
        utils.create_decoder.__defaults__ = (self.device, *utils.create_decoder.__defaults__[1:])

    def networks(self) -> tuple[Any, Any, Any, Any]:
        """(idm, world model, policy, decoder) of a new run, which share the encoder as in its scripts."""
        torch.manual_seed(0)
        vq = SimpleNamespace(
            num_codebooks=2, num_discrete_latents=4, emb_dim=16, num_embs=64, commitment_cost=0.05, decay=0.999
        )
        scales = {"wm_scale": 24, "idm_impala_scale": 4, "policy_impala_scale": 4}
        model = SimpleNamespace(**scales, la_dim=128, ta_dim=self.actions, vq=vq)
        idm, wm = self.utils.create_dynamics_models(model)
        wm.conv = idm.conv
        policy = self.utils.create_policy(model, model.la_dim)
        policy.conv.load_state_dict(idm.conv.state_dict())
        decoder = self.utils.create_decoder(in_dim=128, out_dim=self.actions, hidden_sizes=(192, 128, 64))
        return idm, wm, policy, decoder

    def video(self, batch_size: int) -> Iterator[Any]:
        """Its data loader for one of its chunks."""
        stager = object.__new__(self.loader.DataStager)  # its __init__ would read files
        stager.td_unfolded = self.unfolded_chunk()
        batches: Iterator[Any] = stager.get_iter(batch_size, self.device)
        return batches

    def unfolded_chunk(self) -> Any:
        chunk = self.loader._create_tensordict(self.chunk_frames, 3)
        chunk["obs"][:] = torch.from_numpy(self.frames[: self.chunk_frames])
        return self.loader._unfold_td(chunk, 3, 1)

    def own(self, batch_size: int) -> Iterator[Any]:
        """Its data loader for a full replay."""
        batches: Iterator[Any] = self.filled_replay().get_iter(batch_size, self.device)
        return batches

    def filled_replay(self) -> Any:
        size, rng = 20_000, np.random.default_rng(1)
        buffer = self.replay.ReplayBuffer(ta_dim=self.actions, max_size=size)
        for start in range(0, size, 1000):
            rows = np.arange(start, start + 1000)[:, None] + np.arange(3)
            buffer.add(self.frames[rows], rng.integers(self.actions, size=1000))
        return buffer

    def features(self) -> tuple[Callable[[Any], None], Iterator[Any]]:
        idm, _, _, _ = self.networks()
        idm.train()
        update = getattr(idm, self.features_update)
        return lambda batch: update(batch["obs"]).item(), self.video(512)

    def latent_actions(self) -> tuple[Callable[[Any], None], Iterator[Any]]:
        idm, wm, _, _ = self.networks()
        idm.train()
        wm.train()
        trained = [*wm.parameters(), *idm.parameters()]
        optimizer = torch.optim.AdamW(trained, lr=3e-4, weight_decay=0.01)

        def update(batch: Any) -> None:
            commitment, _ = idm.label(batch)
            loss = wm.label(batch) + commitment
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 2)
            optimizer.step()

        return update, self.video(128)

    def cloning(self) -> tuple[Callable[[Any], None], Iterator[Any]]:
        """Cloning as in its online rounds, without a gradient for the labeling network."""
        idm, _, policy, _ = self.networks()
        idm.train(self.labels_in_training)
        policy.train()
        optimizer = torch.optim.Adam(policy.parameters(), lr=self.cloning_rate)

        def update(batch: Any) -> None:
            with torch.no_grad():
                idm.label(batch)
            loss = F.mse_loss(policy(batch["obs"][:, -2]), batch["la"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return update, self.video(128)

    def finetuning(self) -> tuple[Callable[[Any], None], Iterator[Any]]:
        idm, wm, _, decoder = self.networks()
        for network in (idm, wm, decoder):
            network.train()
        optimizers = self.finetuning_optimizers(idm, wm, decoder)

        def update(batch: Any) -> None:
            for optimizer in optimizers:
                optimizer.zero_grad()
            action, weight = self.action_loss(decoder(idm(batch["obs"])[0]["la"]), self.taken(batch))
            commitment, _ = idm.label(batch)
            (action + weight * (commitment + wm.label(batch))).backward()
            for optimizer in optimizers:
                optimizer.step()

        return update, self.own(512)

    def finetuning_optimizers(self, idm: Any, wm: Any, decoder: Any) -> list[torch.optim.Optimizer]:
        del wm  # keeps its weights
        return [torch.optim.Adam(idm.parameters(), lr=2e-5), torch.optim.Adam(decoder.parameters())]

    def taken(self, batch: Any) -> Tensor:
        """Actions of a replay batch that the losses use."""
        actions: Tensor = batch["ta"]
        return actions

    def action_loss(self, decoded: Tensor, actions: Tensor) -> tuple[Tensor, float]:
        """(loss of decoded actions, weight of the other losses)."""
        return F.cross_entropy(decoded, actions), 15.0

    def check(self, file: Path) -> dict[str, float]:
        """Losses of new networks on a small batch; saves the weights (in order) and the batch to `file`."""
        idm, wm, policy, decoder = self.networks()
        idm.eval()  # the codes are not updated
        wm.train()
        rows = np.arange(_CHECKED)[:, None] * 5 + np.arange(self.window_frames)
        windows = torch.from_numpy(self.frames[rows]).to(self.device)
        actions = self.some_actions()
        tensors = {"windows": windows.cpu(), "action": actions.cpu(), "codes": idm.vq.embedding.cpu()}
        groups = {
            "encoder": [idm.conv],
            "heads": self.heads(idm),
            "predictor": [idm.conv_stack, idm.fc, idm.policy_head],
            "world_model": [wm.down, wm.up, wm.final_conv],
            "policy": [getattr(policy, part) for part in self.policy_parts],
            "decoder": [decoder],
        }
        for name, modules in groups.items():
            parameters = itertools.chain.from_iterable(m.parameters() for m in modules)
            tensors |= {f"{name}.{i}": p.detach().cpu().contiguous().clone() for i, p in enumerate(parameters)}
        save_file({k: v.contiguous() for k, v in tensors.items()}, file)
        batch = _Dict(obs=self.observations(windows).float() / 255 - 0.5)
        now, following = batch["obs"][:, -2], batch["obs"][:, -1]
        commitment, _ = idm.label(batch)
        losses = {
            **self.feature_losses(idm, now, following),
            "commitment": commitment,
            "prediction_error": wm.label(batch),
            "cloning": F.mse_loss(policy(now), batch["la"]),
            "action": self.action_loss(decoder(batch["la"]), actions)[0],
        }
        return {name: loss.item() for name, loss in losses.items()}

    def some_actions(self) -> Tensor:
        return torch.arange(_CHECKED, device=self.device) % self.actions

    def heads(self, idm: Any) -> list[Any]:
        """Modules that the features phase trains beside the encoder, in the order of this package."""
        return [idm.projector, idm.proto.predictor, idm.proto.protos, idm.conv_reconstruct]

    def observations(self, windows: Tensor) -> Tensor:
        """Converts windows [B, window_frames, C, H, W] of single frames to [B, T, channels, H, W]."""
        return windows

    def feature_losses(self, idm: Any, now: Tensor, following: Tensor) -> dict[str, Tensor]:
        """Uses observations without a shift."""
        features = idm.conv(now)
        with torch.no_grad():
            key = idm.projector_target(idm.conv_target(following))
        return {
            "contrast": idm.proto(idm.projector(features), key),
            "reconstruction": F.mse_loss(idm.conv_reconstruct(features), now),
        }


class Continuous(Official):
    """The continuous code, which stores observations as stacks of three frames and trains its world model online."""

    actions = 2
    window_frames = 4
    chunk_frames = 12_000  # in place of its 100,000, which would take 3.7 GB
    features_update = "update_repre"
    policy_parts = ("trunk", "policy_head")
    cloning_rate = 1e-3
    labels_in_training = True

    def unfolded_chunk(self) -> Any:
        chunk = self.loader._create_tensordict(self.chunk_frames, 9, "finger250")
        for i in range(3):
            chunk["obs"][:, 3 * i : 3 * i + 3] = torch.from_numpy(self.frames[i : i + self.chunk_frames])
        return self.loader._unfold_td(chunk, 2, 1)

    def filled_replay(self) -> Any:
        size, rng = 10_000, np.random.default_rng(1)
        buffer = self.replay.ReplayBuffer(ta_dim=self.actions, max_size=size)
        for row in range(size):
            buffer.add(self.frames[row : row + 3].reshape(9, 64, 64), rng.uniform(-1, 1, self.actions), 0, 0, 0, 0)
        return buffer

    def finetuning_optimizers(self, idm: Any, wm: Any, decoder: Any) -> list[torch.optim.Optimizer]:
        decoding = torch.optim.Adam([*idm.parameters(), *decoder.parameters()], lr=1e-3)
        return [decoding, torch.optim.Adam(wm.parameters(), lr=1e-5)]

    def taken(self, batch: Any) -> Tensor:
        actions: Tensor = batch["ta"][:, -2]  # a window has one action for each of its two stacks
        return actions

    def action_loss(self, decoded: Tensor, actions: Tensor) -> tuple[Tensor, float]:
        return F.mse_loss(decoded, actions), 1e-5

    def some_actions(self) -> Tensor:
        return torch.linspace(-1, 1, _CHECKED * self.actions, device=self.device).view(_CHECKED, self.actions)

    def heads(self, idm: Any) -> list[Any]:
        return [idm.projector, idm.proto.predictor, idm.proto.protos]

    def observations(self, windows: Tensor) -> Tensor:
        return torch.stack([windows[:, i : i + 3].flatten(1, 2) for i in range(2)], dim=1)

    def feature_losses(self, idm: Any, now: Tensor, following: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            key = idm.projector_target(idm.conv_target(following))
        return {"prototypes": idm.proto(idm.projector(idm.conv(now)), key)}


class _Dict(dict):
    """A batch of tensors with the one method of TensorDict that labeling calls."""

    def update(self, other: Any) -> None:  # type: ignore[override]
        super().update({key: other[key] for key in other.keys()})  # noqa: SIM118


def main() -> None:
    """Answers commands until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # keeps its own prints apart from the answers
    torch.set_num_threads(int(os.environ["OFFICIAL_THREADS"]))
    checkout, frames = (Path(argument).absolute() for argument in sys.argv[1:3])
    official = {"procgen": Official, "dmc": Continuous}[suite_of(checkout) or ""](checkout, frames, sys.argv[3])
    update, batches = None, None
    for line in sys.stdin:
        command, *rest = line.split()
        answer: dict[str, float] = {}
        if command == "check":
            answer = official.check(Path(rest[0]))
        elif command == "prepare":
            update, batches = None, None
            update, batches = getattr(official, rest[0])()
        else:
            assert update is not None
            assert batches is not None
            start = time.perf_counter()
            batch = next(batches)
            loaded = time.perf_counter()
            update(batch)
            if official.device.type == "cuda":
                torch.cuda.synchronize()
            end = time.perf_counter()
            answer = {"seconds": end - start, "load_s": loaded - start}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
