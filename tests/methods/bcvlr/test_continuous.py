"""Updates of continuous control on stacked frames, compared with plain code."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.config.files import from_json, to_json
from bcvlr_fast.config.presets import SCALES
from bcvlr_fast.config.run import validate
from bcvlr_fast.config.window import Window
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.replay import Replay, ReplaySampler
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs import spec
from bcvlr_fast.envs.specs import Actions, EnvSpec
from bcvlr_fast.evaluation.health import probe_explained
from bcvlr_fast.methods.actions import agreement
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.features import Features
from bcvlr_fast.methods.bcvlr.finetuning import Finetuning
from bcvlr_fast.methods.bcvlr.latent_actions import LatentActions
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.registry import config_type
from bcvlr_fast.nn.heads import ContrastiveHeads, PrototypeHeads
from bcvlr_fast.training.batches import Batches
from bcvlr_fast.training.compute import Compute
from helpers.updates import assert_moved_alike, drawn_rows

FP32 = Compute(torch.device("cpu"), torch.float32)
LENGTHS = [25, 35]
SPEC = spec("dmc:finger_spin")


def small() -> Config:
    """The paper's settings, with small networks and batches."""
    settings = preset("dmc:finger_spin", "paper")
    narrow = {"impala_channels": (4, 8), "hidden_dim": 16}
    settings = replace_in(settings, "encoder", channels=4, plain_layers=1)
    settings = replace_in(settings, "features", batch_size=8, projection_dim=16, hidden_dim=24, prototypes=12)
    settings = replace_in(settings, "latent_actions", **narrow, batch_size=6, world_model_width=4)
    settings = replace_in(settings, "policy", bottleneck_dim=8, mlp_hidden=(16, 16), batch_size=6)
    return replace_in(settings, "online", finetune_batch_size=6)


def make(settings: Config) -> tuple[Agent, WindowSampler]:
    torch.manual_seed(0)
    agent = Agent(settings, SPEC, FP32)
    frames = np.random.default_rng(0).integers(0, 256, (sum(LENGTHS), 3, 64, 64), dtype=np.uint8)
    store = FrameStore.from_episodes(frames, np.array(LENGTHS), FP32.device)
    return agent, WindowSampler(store, settings.window, torch.Generator().manual_seed(1))


def stacked(sampler: WindowSampler, centers: Tensor) -> Tensor:
    """[B, 9, 64, 64] uint8: the expected stacks of three frames; the first frame of an episode repeats."""
    first = torch.where(centers < LENGTHS[0], 0, LENGTHS[0])
    return torch.cat([sampler.store.frames[torch.maximum(centers - back, first)] for back in (2, 1, 0)], dim=1)


def pixels(sampler: WindowSampler, centers: Tensor) -> Tensor:
    return stacked(sampler, centers).float() / 255 - 0.5


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("encoder", 30_368),
        ("predictor", 2_144_192),
        ("world_model", 2_046_896),
        ("policy", 2_871_574),
        ("decoder", 57_858),
    ],
)
def test_paper_parameter_counts(name: str, parameters: int) -> None:
    agent = Agent(preset("dmc:finger_spin", "paper"), SPEC, FP32)
    assert sum(p.numel() for p in getattr(agent, name).parameters()) == parameters


@pytest.mark.parametrize("placement", ["device", "mapped"])
def test_a_batch_holds_the_stacks_of_its_observations(placement: str) -> None:
    _, sampler = make(small())
    sampler.store.placement = placement
    batches = Batches(sampler, 64, 2)
    for step in range(4):
        batches.fetch((0, step), (0, step + 1))
        batches.draw(2)
        for later in (0, 1):
            actual = batches.frames[batches.observation(1, later)].flatten(1, 2)
            assert torch.equal(actual, stacked(sampler, sampler.centers[batches.rows[1]] + later))
    assert torch.equal(sampler.observations(sampler.centers), stacked(sampler, sampler.centers))
    assert 0 in sampler.centers  # an episode's first frame is an observation too


def test_features_update_by_prototypes() -> None:
    """Compares with Proto-RL's loop: exponentials, then three scalings of rows and columns."""
    settings = small()
    agent, sampler = make(settings)
    learner = Features(settings.features, agent, sampler)
    encoder, heads, target = (copy.deepcopy(m) for m in (agent.encoder, learner.heads, learner.target))
    assert isinstance(heads, PrototypeHeads)
    trained = [*encoder.parameters(), *heads.parameters()]
    adam = torch.optim.Adam(trained, lr=settings.features.learning_rate)
    learner.step()
    assert learner.done == 2
    generator = torch.Generator().manual_seed(1)
    drawn = sampler.centers[drawn_rows(sampler, (2, 8), generator)]
    for update, centers in enumerate(drawn):
        views = []
        for later in range(2):
            offset = torch.randint(9, (8, 2), generator=generator)
            padded = F.pad(stacked(sampler, centers + later).float(), (4,) * 4, mode="replicate")
            crops = [padded[i, :, y : y + 64, x : x + 64] for i, (y, x) in enumerate(offset.tolist())]
            views.append(torch.stack(crops) / 255 - 0.5)
        weight = heads.prototypes.weight
        weight.data = F.normalize(weight.data, dim=1)
        log_p = F.log_softmax(F.normalize(heads.predictor(heads.projector(encoder(views[0])))) @ weight.T / 0.1, dim=1)
        with torch.no_grad():
            scores = F.normalize(target[1](target[0](views[1]))) @ weight.T
            q = torch.exp((scores - scores.max()) / 0.1).T
            for _ in range(3):
                q = q / q.sum(dim=1, keepdim=True) / len(q)
                q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
            q = (q / q.sum(dim=0, keepdim=True)).T
        adam.zero_grad()
        (-(q * log_p).sum(dim=1).mean()).backward()
        adam.step()
        if update == 1:
            online = [*encoder.parameters(), *heads.projector.parameters()]
            for t, p in zip(target.parameters(), online, strict=True):
                t.data = 0.95 * t.data + 0.05 * p.data
    assert_moved_alike(agent.encoder, encoder)
    assert_moved_alike(learner.heads, heads)
    torch.testing.assert_close(list(learner.target.parameters()), list(target.parameters()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objective", ["contrastive", "contrastive+reconstruction", "prototypes"])
def test_every_objective_teaches_the_encoder(objective: str) -> None:
    settings = replace_in(small(), "features", objective=objective, learning_rate=3e-3, shift_pad=0)
    agent, sampler = make(settings)
    before = copy.deepcopy(agent.encoder)
    learner = Features(settings.features, agent, sampler)
    reconstructs = isinstance(learner.heads, ContrastiveHeads) and learner.heads.pixel_decoder is not None
    assert reconstructs == (objective == "contrastive+reconstruction")
    losses = []
    for _ in range(30):
        learner.step()
        losses.append(learner.read_metrics()["loss"])
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert not any(torch.equal(a, b) for a, b in zip(agent.encoder.parameters(), before.parameters(), strict=True))


def test_latent_actions_update_on_two_observations() -> None:
    settings = small()
    agent, sampler = make(settings)
    learner = LatentActions(settings.latent_actions, agent, sampler)
    plain = copy.deepcopy(agent).train()
    learner.step()
    centers = sampler.centers[drawn_rows(sampler, (6,), torch.Generator().manual_seed(1))]
    with torch.no_grad():
        now, following = (plain.encoder(pixels(sampler, centers + later)) for later in (0, 1))
    z = plain.predictor.head(plain.predictor.trunk(torch.cat([now, following], dim=1)))
    code = plain.codebook(z)
    error = (plain.world_model(now, code.quantized) - following).square().mean()
    trained = [*plain.predictor.parameters(), *plain.world_model.parameters()]
    (error + 0.05 * code.commitment).backward()
    nn.utils.clip_grad_norm_(trained, 2.0)
    torch.optim.AdamW(trained, lr=3e-4, weight_decay=0.01).step()
    assert_moved_alike(agent.predictor, plain.predictor)
    assert_moved_alike(agent.world_model, plain.world_model)


def test_cloning_update_of_the_fully_connected_policy() -> None:
    settings = small()
    agent, sampler = make(settings)
    learner = Cloning(settings.policy, agent, sampler, updates=1, batch_size=6, learning_rate=1e-3)
    plain = copy.deepcopy(agent)
    learner.step()
    centers = sampler.centers[drawn_rows(sampler, (1, 6), torch.Generator().manual_seed(1))[0]]
    with torch.no_grad():
        now, following = (plain.encoder(pixels(sampler, centers + later)) for later in (0, 1))
        z = plain.predictor(torch.cat([now, following]))
    trunk = plain.policy.trunk
    hidden = F.linear(now.flatten(1), trunk[1].weight, trunk[1].bias)
    hidden = torch.tanh(F.layer_norm(hidden, (8,), trunk[2].weight, trunk[2].bias))
    for layer in list(trunk)[4:]:
        hidden = layer(hidden)
    (plain.policy.head(hidden) - z).square().mean().backward()
    torch.optim.Adam(plain.policy.parameters(), lr=1e-3).step()
    for actual, expected in zip(agent.policy.parameters(), plain.policy.parameters(), strict=True):
        assert float((actual.grad - expected.grad).norm()) <= 1e-4 * float(expected.grad.norm())
        clear = expected.grad.abs() > 1e-3 * expected.grad.abs().max()
        torch.testing.assert_close(actual[clear], expected[clear], rtol=1e-4, atol=2e-6)


def test_dropped_stacks_hold_only_the_newest_frame() -> None:
    settings = small()
    agent, sampler = make(settings)
    for fraction in (0.0, 1.0):
        dropping = dataclasses.replace(settings.policy, stack_dropout=fraction)
        learner = Cloning(dropping, agent, sampler, updates=1, batch_size=6, learning_rate=1e-3)
        learner.prepare(1)
        index = learner.batches.observation(0)
        newest = agent.frame_features(learner.batches.frames, index[:, -1:].expand(-1, 3).T)
        assert torch.equal(learner._features(0), newest) == (fraction == 1.0)
    drawn = (
        torch.cat([sampler.draw_chances(1000, fraction) for fraction in (0.0, 0.25, 1.0)], dim=1).float().mean(dim=0)
    )
    assert drawn[[0, 2]].tolist() == [0, 1]
    assert abs(drawn[1] - 0.25) < 0.06


def own_windows(sampler: WindowSampler, actions: Tensor, capacity: int = 59) -> ReplaySampler:
    """The frames of `sampler` as own transitions with `actions` [60, A]."""
    replay = Replay(capacity, 1, SPEC, FP32.device)
    for row in range(sum(LENGTHS)):
        last = row + 1 in np.cumsum(LENGTHS)
        frame = sampler.store.frames[row : row + 1].numpy()
        replay.append(np.array([0]), frame, None if last else actions[row : row + 1].numpy(), ends=last)
    own = ReplaySampler(replay, Window(0, 1, 3), sampler.generator)
    assert own.refresh()
    return own


def test_finetuning_update_of_continuous_actions_and_the_world_model() -> None:
    settings = replace_in(small(), "online", regularisation=1e-3)
    agent, sampler = make(settings)
    actions = torch.rand(60, 2) * 2 - 1
    rates = {"predictor": 1e-3, "decoder": 1e-3, "world_model": 1e-5}
    learner = Finetuning(settings, agent, own_windows(sampler, actions))
    plain = copy.deepcopy(agent).train()
    learner.step()
    metrics = learner.read_metrics()
    centers = sampler.centers[drawn_rows(sampler, (6,), torch.Generator().manual_seed(1))]
    with torch.no_grad():
        now, following = (plain.encoder(pixels(sampler, centers + later)) for later in (0, 1))
    z = plain.predictor(torch.cat([now, following]))
    code = plain.codebook(z)
    decoded = plain.decoder(z)
    action_loss = (decoded - actions[centers]).square().mean()
    error = (plain.world_model(now, code.quantized) - following).square().mean()
    (action_loss + 1e-3 * (error + 0.05 * code.commitment)).backward()
    for name, rate in rates.items():
        torch.optim.Adam(getattr(plain, name).parameters(), lr=rate).step()
    assert metrics["action_loss"] == pytest.approx(action_loss.item(), rel=1e-5)
    spread = actions[centers].var(dim=0).mean()
    assert metrics["variance_explained"] == pytest.approx(float(1 - action_loss.detach() / spread), rel=1e-4)
    for name in rates:
        assert_moved_alike(getattr(agent, name), getattr(plain, name))


def test_a_wrapped_replay_has_only_whole_stacks() -> None:
    """Observations that need overwritten frames at the beginning of an episode are excluded."""
    _, sampler = make(small())
    own = own_windows(sampler, torch.zeros(60, 2), capacity=40)
    centers = own.centers[: int(own.count)]
    observed = own.observations(centers)
    numbers = [next(t for t in range(60) if torch.equal(sampler.store.frames[t], frame[-3:])) for frame in observed]
    assert torch.equal(observed, stacked(sampler, torch.tensor(numbers)))
    in_ring = range(60 - own.replay.slots, 60)
    expected = {t for t in in_ring if t + 1 in in_ring and t not in (24, 59) and (t - 2 in in_ring or 25 <= t <= 26)}
    straddling = expected - set(numbers)
    assert set(numbers) <= expected
    assert len(straddling) <= 3


def test_continuous_actions_are_the_mean_or_noisy_and_in_range() -> None:
    settings = replace_in(small(), "online", exploration_noise=0.3)
    agent, sampler = make(settings)
    observations = sampler.observations(torch.zeros(4000, dtype=torch.int64))
    policy = agent.acting_policy()
    mean = policy.act(observations[:1])
    assert torch.equal(mean, policy(observations[:1]).clamp(-1, 1))
    noisy = policy.act(observations, torch.Generator().manual_seed(0))
    assert noisy.abs().max() <= 1
    torch.testing.assert_close((noisy - mean).mean(dim=0), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close((noisy - mean).std(dim=0), torch.full((2,), 0.3), atol=0.02, rtol=0)


def test_agreement_of_continuous_actions_is_the_variance_explained() -> None:
    truth = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.5, -0.5]])
    assert float(agreement(truth, truth)) == 1.0
    wrong = float(agreement(truth + 0.1, truth))
    assert wrong == pytest.approx(1 - 0.01 / float(truth.var(dim=0).mean()))


def test_the_probe_explains_linear_actions_and_nothing_from_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    z, weight = torch.randn(2048, 16, generator=generator), torch.randn(16, 3, generator=generator)
    assert probe_explained(z, z @ weight) > 0.99
    assert probe_explained(torch.randn(2048, 16, generator=generator), z @ weight) < 0.05


@pytest.mark.parametrize(
    ("actions", "taken", "message"),
    [
        (Actions(True, 2), np.zeros((3, 2), np.float32), "expected floats \\[4, 2\\]"),
        (Actions(True, 2), np.zeros((4, 2), np.int64), "expected floats"),
        (Actions(True, 2), np.full((4, 2), np.nan), "expected -1..1, got nan"),
        (Actions(True, 2), np.full((4, 2), 1.01), "expected -1..1"),
        (Actions(False, 5), np.full(4, 5), "expected 0..4"),
        (Actions(False, 5), np.zeros(4), "expected integers"),
    ],
)
def test_wrong_actions_are_named(actions: Actions, taken: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        actions.check(taken, 4)


def test_presets_have_the_papers_exceptions() -> None:
    finger, reacher = (preset(f"dmc:{task}", "paper") for task in ("finger_spin", "reacher_hard"))
    assert (finger.online.finetune_epochs, finger.online.regularisation) == (2.0, 1e-5)
    assert (reacher.online.finetune_epochs, reacher.online.finetune_updates) == (0.0, 100)
    assert (reacher.online.regularisation, reacher.online.world_model_learning_rate) == (1e-3, 1e-3)
    assert preset("dmc:point_mass_easy", "paper").features.shift_pad == 1
    drawer = preset("metaworld:drawer-open", "paper")
    assert (drawer.features.objective, drawer.online.interactions, drawer.episodes) == ("contrastive", 25_000, 50)
    for env in ("dmc:walker_walk", "metaworld:reach"):
        for scale in SCALES:
            settings = preset(env, scale)
            validate(settings)
            assert from_json(to_json(settings), "itself", config_type) == settings
    shape = EnvSpec((3, 64, 64), Actions(True, 4), 40.0, "success", 16)
    assert dataclasses.replace(spec("metaworld:reach")) == shape
