"""A policy acts, is saved as two files, and exports."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.envs import spec
from bcvlr_fast.kernels import random_shift
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.policy import CARD, WEIGHTS, Policy
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training.compute import Compute

ENVS = ("procgen:bossfight", "dmc:finger_spin")


def policy_of(env: str, dtype: torch.dtype = torch.float32) -> Policy:
    settings = preset(env, "quick")
    for section in ("latent_actions", "policy"):
        settings = replace_in(settings, section, impala_channels=(4, 8), hidden_dim=16)
    torch.manual_seed(0)
    return Agent(settings, spec(env), Compute(torch.device("cpu"), dtype)).acting_policy()


def observations(policy: Policy, count: int = 5) -> np.ndarray:
    shape = (count, *policy.card.observation_shape)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_normalization_equals_the_kernel(dtype: torch.dtype) -> None:
    """They are equal bit for bit: the policy trains with the kernel and acts with plain PyTorch."""
    policy = policy_of("procgen:bossfight", dtype)
    frames = torch.arange(256, dtype=torch.uint8).repeat(48).view(1, 3, 64, 64)
    index = torch.zeros(1, 1, dtype=torch.int64)
    inputs: list[torch.Tensor] = []
    policy.decode = lambda pixels: inputs.append(pixels) or pixels  # type: ignore[method-assign]
    policy(frames)
    shifted = random_shift(frames, index, dtype=dtype)
    assert torch.equal(inputs[0], shifted)
    assert inputs[0].stride() == shifted.stride()


@pytest.mark.parametrize("env", ENVS)
def test_a_saved_policy_acts_the_same(env: str, tmp_path: Path) -> None:
    policy = policy_of(env)
    frames = observations(policy)
    policy.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CARD, WEIGHTS}
    again = Policy.load(tmp_path, "cpu", "fp32")
    assert again.card == dataclasses.replace(policy.card, networks=again.card.networks)
    np.testing.assert_array_equal(again.act(frames), policy.act(frames))
    sampled = [p.act(frames, torch.Generator().manual_seed(1)) for p in (policy, again)]
    np.testing.assert_array_equal(*sampled)


def test_a_policy_holds_only_what_acts() -> None:
    names = {name.partition(".")[0] for name in policy_of("procgen:bossfight").state_dict()}
    assert names == {"encoder", "policy", "decoder"}


@pytest.mark.parametrize("env", ENVS)
def test_arrays_give_arrays_and_tensors_give_tensors(env: str) -> None:
    policy = policy_of(env)
    frames = observations(policy)
    acted, actions = policy.act(torch.from_numpy(frames)), policy.act(frames)
    assert isinstance(actions, np.ndarray)
    np.testing.assert_array_equal(actions, acted.numpy())
    policy.card.actions.check(actions, len(frames))


@pytest.mark.parametrize("frames", [np.zeros((2, 3, 32, 32), np.uint8), np.zeros((2, 3, 64, 64), np.float32)])
def test_frames_of_another_shape_or_type_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames: expected uint8 \['B', 3, 64, 64\], got"):
        policy_of("procgen:bossfight").act(frames)


def test_a_policy_exports() -> None:
    policy = policy_of("procgen:bossfight")
    frames = torch.from_numpy(observations(policy))
    program = torch.export.export(policy, (frames,))
    torch.testing.assert_close(program.module()(frames), policy(frames))


@pytest.mark.parametrize("damage", ["missing", "weights", "format"])
def test_a_damaged_policy_is_a_one_line_error(damage: str, tmp_path: Path) -> None:
    policy_of("procgen:bossfight").save(tmp_path)
    if damage == "missing":
        (tmp_path / CARD).unlink()
    elif damage == "weights":
        (tmp_path / WEIGHTS).write_bytes(b"no tensors")
    else:
        card = json.loads((tmp_path / CARD).read_text())
        (tmp_path / CARD).write_text(json.dumps({**card, "format": 9}))
    with pytest.raises(UserError, match=r"expected the (card|weights) of a policy \(.*\)$") as caught:
        Policy.load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_temperature_sharpens_the_draws() -> None:
    policy = policy_of("procgen:bossfight")
    frames = np.repeat(observations(policy, 1), 20_000, axis=0)
    policy.forward = lambda frames: torch.arange(15.0).div(4).expand(len(frames), -1)  # type: ignore[method-assign]
    drawn = policy.act(frames, torch.Generator().manual_seed(0), temperature=0.5)
    expected = torch.arange(15.0).div(2).softmax(0).numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=15) / len(drawn), expected, atol=0.015)


def test_unstuck_is_random_in_repeated_frames_alone() -> None:
    """An environment repeats only what it has shown itself, in the same episode."""
    policy = policy_of("procgen:bossfight")
    shown = observations(policy, 2)
    sure = torch.full((15,), -100.0)
    sure[3] = 100.0
    policy.forward = lambda frames: sure.expand(len(frames), -1)  # type: ignore[method-assign]
    unstuck = policy.unstuck(num_envs=64)
    first, rest = np.ones(2, bool), np.zeros(2, bool)
    assert unstuck.act(shown, first).tolist() == [3, 3]
    assert unstuck.act(shown[[1, 0]], rest).tolist() == [3, 3]  # each has shown the other's
    assert unstuck.act(shown, first).tolist() == [3, 3]
    assert unstuck.act(shown, rest, np.array([2, 3])).tolist() == [3, 3]
    everywhere = np.repeat(shown[:1], 64, axis=0)
    unstuck.act(everywhere, np.ones(64, bool))
    repeated = [unstuck.act(everywhere, np.zeros(64, bool)) for _ in range(20)]
    counts = np.bincount(np.concatenate(repeated), minlength=15)
    assert (np.abs(counts - 64 * 20 / 15) < 5 * (64 * 20 / 15) ** 0.5).all(), counts


def test_continuous_policies_do_not_get_unstuck() -> None:
    with pytest.raises(ValueError, match="unstuck: expected a policy with discrete actions"):
        policy_of("dmc:finger_spin").unstuck(1)
