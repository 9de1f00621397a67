"""Network sizes at scale `paper`, and the action convolution."""

import pytest
import torch
from torch import nn

from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.features import build_heads
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.nn.world_model import ActionConvolution, WorldModel
from bcvlr_fast.training.compute import Compute

FP32 = Compute(torch.device("cpu"), torch.float32)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def paper_agent() -> Agent:
    return Agent(preset("procgen:bossfight", "paper"), spec("procgen:bossfight"), FP32)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("encoder", 9_728),
        ("predictor", 3_707_840),
        ("world_model", 7_825_696),
        ("policy", 3_689_408),
        ("decoder", 58_703),
    ],
)
def test_paper_parameter_counts(paper_agent: Agent, name: str, parameters: int) -> None:
    assert count(getattr(paper_agent, name)) == parameters


def test_paper_heads_and_codebook(paper_agent: Agent) -> None:
    settings = preset("procgen:bossfight", "paper")
    heads = build_heads(settings.features, paper_agent.encoder)
    assert count(heads.projector) == 65_536 * 256 + 256
    assert count(heads.predictor) + count(heads.bilinear) == 328_448
    assert count(heads.pixel_decoder) == 771
    assert sum(b.numel() for b in paper_agent.codebook.buffers()) == 4_224


def test_paper_shapes(paper_agent: Agent) -> None:
    frames = torch.rand(2, 3, 64, 64) - 0.5
    features = paper_agent.encoder(frames)
    assert features.shape == (2, 16, 64, 64)
    z = paper_agent.predictor(features.repeat(3, 1, 1, 1))
    assert z.shape == (2, 128)
    predicted = paper_agent.world_model(features.repeat(1, 2, 1, 1), z)
    assert predicted.shape == (2, 16, 64, 64)
    assert predicted.abs().max() <= 0.5
    assert paper_agent.decoder(paper_agent.policy(features)).shape == (2, 15)


@pytest.mark.parametrize(("side", "channels", "latent", "out"), [(8, 3, 5, 4), (4, 1, 1, 1), (32, 32, 128, 16)])
def test_action_convolution_equals_tiling(side: int, channels: int, latent: int, out: int) -> None:
    layer = ActionConvolution(channels, latent, out).double()
    x = torch.randn(3, channels, side, side, dtype=torch.float64, requires_grad=True)
    z = torch.randn(3, latent, dtype=torch.float64, requires_grad=True)
    tiled = layer.conv(torch.cat([x, z[:, :, None, None].expand(-1, -1, side, side)], dim=1))
    fast = layer(x, z)
    torch.testing.assert_close(fast, tiled, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(fast)
    expected = torch.autograd.grad((tiled * weight).sum(), [x, z, layer.conv.weight], retain_graph=True)
    actual = torch.autograd.grad((fast * weight).sum(), [x, z, layer.conv.weight])
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_residual_world_model_starts_as_a_copy() -> None:
    settings = preset("procgen:bossfight", "quick")
    agent = Agent(settings, spec("procgen:bossfight"), FP32)
    past, z = torch.randn(2, 32, 32, 32), torch.randn(2, 128)
    nn.init.zeros_(agent.world_model.final[-1].weight)
    nn.init.zeros_(agent.world_model.final[-1].bias)
    torch.testing.assert_close(agent.world_model(past, z), past[:, 16:])


def test_world_model_refuses_odd_sides() -> None:
    settings = preset("procgen:bossfight", "quick")
    encoder = Agent(settings, spec("procgen:bossfight"), FP32).encoder
    encoder.side = 24
    with pytest.raises(ValueError, match="power of two"):
        WorldModel(encoder, context_frames=2, latent_dim=8, width=4)
