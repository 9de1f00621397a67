"""The official discrete implementation as a process that takes orders: a peer of bench_update.py.

python bench/official_discrete.py CHECKOUT FRAMES.npy DEVICE

Its own classes, losses, optimisers and data loader run as its scripts call them; a simulator, a tracker and a GPU with
index 3 are not needed. Orders on stdin, a JSON object for each on stdout: `check FILE` computes all phases' losses
on a small batch and saves weights and batch; `prepare PHASE`; `update`, with the seconds that it and its loading took.
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

_CHUNK, _CHECKED, _ACTIONS, _REPLAYED = 32_768, 8, 15, 20_000
_MODEL = {
    "wm_scale": 24,
    "idm_impala_scale": 4,
    "policy_impala_scale": 4,
    "la_dim": 128,
    "ta_dim": _ACTIONS,
    "vq": SimpleNamespace(
        num_codebooks=2, num_discrete_latents=4, emb_dim=16, num_embs=64, commitment_cost=0.05, decay=0.999
    ),
}


class Official:
    """The modules of the checkout, and one phase's networks, optimisers and data."""

    loader: Any
    replay: Any
    utils: Any

    def __init__(self, checkout: Path, frames: Path, device: str) -> None:
        for absent in ("gym", "procgen", "wandb", "omegaconf", "doy", "funcy"):
            with contextlib.suppress(ImportError):
                __import__(absent)
                continue
            sys.modules[absent] = MagicMock()
        sys.path.insert(0, str(checkout))
        self._frames = np.load(frames, mmap_mode="r")
        self._work = tempfile.TemporaryDirectory()
        os.chdir(self._work.name)
        Path("expert_data").mkdir()  # its paths module looks for it
        self.device = torch.device(device)
        vars(importlib.import_module("config"))["DEVICE"] = self.device  # before the others take it from there
        self.loader, self.replay, self.utils = (
            importlib.import_module(name) for name in ("data_loader", "replay_buffer_tensordict", "utils")
        )
        utils = self.utils
        utils.create_decoder.__defaults__ = (self.device, *utils.create_decoder.__defaults__[1:])

    def networks(self) -> tuple[Any, Any, Any, Any]:
        """(idm, world model, policy, decoder) of a fresh run, sharing the encoder as its scripts make them."""
        torch.manual_seed(0)
        model = SimpleNamespace(**_MODEL)
        idm, wm = self.utils.create_dynamics_models(model)
        wm.conv = idm.conv
        policy = self.utils.create_policy(model, model.la_dim)
        policy.conv.load_state_dict(idm.conv.state_dict())
        decoder = self.utils.create_decoder(in_dim=128, out_dim=_ACTIONS, hidden_sizes=(192, 128, 64))
        return idm, wm, policy, decoder

    def video(self, batch_size: int) -> Iterator[Any]:
        """Its loader over one of its chunks."""
        stager = object.__new__(self.loader.DataStager)  # whose __init__ reads files
        chunk = self.loader._create_tensordict(_CHUNK, 3)
        chunk["obs"][:] = torch.from_numpy(self._frames[:_CHUNK])
        stager.td_unfolded = self.loader._unfold_td(chunk, 3, 1)
        batches: Iterator[Any] = stager.get_iter(batch_size, self.device)
        return batches

    def own(self, batch_size: int) -> Iterator[Any]:
        """Its loader over a full replay."""
        buffer = self.replay.ReplayBuffer(ta_dim=_ACTIONS, max_size=_REPLAYED)
        rng = np.random.default_rng(1)
        for start in range(0, _REPLAYED, 1000):
            rows = np.arange(start, start + 1000)[:, None] + np.arange(3)
            buffer.add(self._frames[rows], rng.integers(_ACTIONS, size=1000))
        batches: Iterator[Any] = buffer.get_iter(batch_size, self.device)
        return batches

    def features(self) -> tuple[Callable[[Any], None], Iterator[Any]]:
        idm, _, _, _ = self.networks()
        idm.train()
        return lambda batch: idm.update_repre_addreconstruct(batch["obs"]).item(), self.video(512)

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
        """As in its online rounds, where no gradient flows into the labelling network."""
        idm, _, policy, _ = self.networks()
        idm.eval()
        policy.train()
        optimizer = torch.optim.Adam(policy.parameters(), lr=2e-4)

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
        optimizers = torch.optim.Adam(idm.parameters(), lr=2e-5), torch.optim.Adam(decoder.parameters())

        def update(batch: Any) -> None:
            for optimizer in optimizers:
                optimizer.zero_grad()
            action = F.cross_entropy(decoder(idm(batch["obs"])[0]["la"]), batch["ta"])
            commitment, _ = idm.label(batch)
            (action + 15 * (commitment + wm.label(batch))).backward()
            for optimizer in optimizers:
                optimizer.step()

        return update, self.own(512)

    def check(self, file: Path) -> dict[str, float]:
        """Losses of fresh networks on a small batch; weights (in order) and the batch go to `file`."""
        idm, wm, policy, decoder = self.networks()
        idm.eval()  # codes stay
        wm.train()
        count = _CHECKED
        rows = torch.arange(count)[:, None] * 5 + torch.arange(3)
        windows = torch.from_numpy(self._frames[rows.numpy()]).to(self.device)
        action = torch.arange(count, device=self.device) % _ACTIONS
        kept = {"windows": windows.cpu(), "action": action.cpu(), "codes": idm.vq.embedding.cpu()}
        groups = {
            "encoder": [idm.conv],
            "heads": [idm.projector, idm.proto.predictor, idm.proto.protos, idm.conv_reconstruct],
            "predictor": [idm.conv_stack, idm.fc, idm.policy_head],
            "world_model": [wm.down, wm.up, wm.final_conv],
            "policy": [policy.conv_stack, policy.fc, policy.policy_head],
            "decoder": [decoder],
        }
        for name, modules in groups.items():
            parameters = itertools.chain.from_iterable(m.parameters() for m in modules)
            kept |= {f"{name}.{i}": p.detach().cpu().contiguous().clone() for i, p in enumerate(parameters)}
        save_file({k: v.contiguous() for k, v in kept.items()}, file)
        obs = windows.float() / 255 - 0.5
        now, following = obs[:, 1], obs[:, 2]
        features = idm.conv(now)
        with torch.no_grad():
            key = idm.projector_target(idm.conv_target(following))
        batch = {"obs": obs}
        commitment, _ = idm.label(_Dict(batch))
        batch = _Dict(batch)
        idm.label(batch)
        return {
            "contrast": idm.proto(idm.projector(features), key).item(),
            "reconstruction": F.mse_loss(idm.conv_reconstruct(features), now).item(),
            "commitment": commitment.item(),
            "prediction_error": wm.label(batch).item(),
            "cloning": F.mse_loss(policy(now), batch["la"]).item(),
            "action": F.cross_entropy(decoder(batch["la"]), action).item(),
        }


class _Dict(dict):
    """A batch of tensors with the one method of a TensorDict that labelling calls."""

    def update(self, other: Any) -> None:  # type: ignore[override]
        super().update({key: other[key] for key in other.keys()})  # noqa: SIM118


def main() -> None:
    """Reads orders until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # its own prints do not mix with the answers
    torch.set_num_threads(int(os.environ["OFFICIAL_THREADS"]))
    official = Official(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), sys.argv[3])
    update, batches = None, None
    for line in sys.stdin:
        order, *rest = line.split()
        answer: dict[str, float] = {}
        if order == "check":
            answer = official.check(Path(rest[0]))
        elif order == "prepare":
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
