"""A frozen pretrained encoder, tested with a stand-in for timm."""

import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.config.run import validate
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import Config, EncoderConfig
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training.compute import Compute

FP32 = Compute(torch.device("cpu"), torch.float32)


class Maps(nn.Module):
    """Stands in for the model of timm.create_model with features_only: one feature map and its description."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2 << stage, padding=1)
        self.norm = nn.BatchNorm2d(5)
        facts = {"num_chs": 5, "reduction": 2 << stage}
        self.feature_info = SimpleNamespace(get_dicts=lambda: [facts])

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.norm(self.conv(x))]


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    def create_model(
        name: str, *, pretrained: bool, features_only: bool, out_indices: tuple[int], **source: dict
    ) -> Maps:
        assert features_only
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        if pretrained:
            torch.manual_seed(3)
        maps = Maps(*out_indices)
        if source:
            maps.load_state_dict(load_file(source["pretrained_cfg_overlay"]["file"]))
        return maps

    module = ModuleType("timm")
    module.create_model = create_model  # type: ignore[attr-defined]
    pretrained_cfg = SimpleNamespace(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    module.get_pretrained_cfg = lambda _: pretrained_cfg  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def settings(**encoder: object) -> Config:
    narrow = {"impala_channels": (4, 8), "hidden_dim": 16}
    config = preset("dmc:finger_spin", "quick")
    config = dataclasses.replace(config, encoder=EncoderConfig(pretrained="tiny", **encoder))  # type: ignore[arg-type]
    for section in ("latent_actions", "policy"):
        config = replace_in(config, section, **narrow)
    return replace_in(config, "features", objective="none")


@pytest.mark.usefixtures("timm")
def test_frames_of_a_stack_are_encoded_one_by_one_with_frozen_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    torch.manual_seed(9)
    model = Maps(1)
    save_file(model.state_dict(), file)
    config = settings(pretrained_weights=file)
    validate(config)
    agent = Agent(config, spec("dmc:finger_spin"), FP32)
    encoder = agent.encoder.train()
    assert (encoder.in_channels, encoder.channels, encoder.side) == (9, 15, 16)
    x = torch.rand(2, 9, 64, 64) - 0.5
    features = encoder(x)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    parts = [model.eval()((x[:, i : i + 3] + 0.5 - mean) / deviation)[0] for i in (0, 3, 6)]
    torch.testing.assert_close(features, torch.cat(parts, dim=1))
    assert not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder.network.norm.running_mean, model.norm.running_mean)
    frames = torch.randint(0, 256, (2, 9, 64, 64), dtype=torch.uint8)
    assert agent.acting_policy().act(frames).shape == (2, 2)  # p, w and pi fit its feature maps


@pytest.mark.usefixtures("timm")
def test_a_restored_encoder_skips_the_published_weights() -> None:
    first, second, other = (
        Agent(settings(), spec("dmc:finger_spin"), FP32, restored=restored) for restored in (False, False, True)
    )
    weights = [agent.encoder.network.conv.weight for agent in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    other.load_state_dict(first.state_dict())
    assert torch.equal(weights[0], weights[2])


@pytest.mark.usefixtures("timm")
def test_feature_maps_that_are_too_small_are_a_one_line_error() -> None:
    with pytest.raises(UserError, match=r"tiny at stage 4: expected features of 4 .* a side, got 2"):
        Agent(settings(pretrained_stage=4), spec("dmc:finger_spin"), FP32)


@pytest.mark.usefixtures("timm")
def test_an_unknown_model_is_a_one_line_error() -> None:
    config = dataclasses.replace(settings(), encoder=EncoderConfig(pretrained="tony"))
    with pytest.raises(UserError, match=r"encoder.pretrained: tony at stage 1 cannot be loaded \(Unknown model"):
        Agent(config, spec("dmc:finger_spin"), FP32)


def test_without_timm_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"encoder.pretrained: needs the package 'timm' \(extra \[timm\]\)"):
        Agent(settings(), spec("dmc:finger_spin"), FP32)


def test_a_frozen_encoder_requires_objective_none() -> None:
    with pytest.raises(UserError, match=r"features.objective: expected none, .* got prototypes"):
        validate(replace_in(settings(), "features", objective="prototypes"))
