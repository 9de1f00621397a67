"""One update of each phase, compared with plain code."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.config.window import Window
from bcvlr_fast.data.frames import FrameStore
from bcvlr_fast.data.replay import Replay, ReplaySampler
from bcvlr_fast.data.sampling import WindowSampler
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning, cloning_loss, decoded_difference
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.features import Features, build_heads, contrastive_loss
from bcvlr_fast.methods.bcvlr.finetuning import Finetuning, finetuning_loss
from bcvlr_fast.methods.bcvlr.latent_actions import (
    LatentActions,
    copy_error,
    latent_action_loss,
    prediction_error,
)
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.training.compute import Compute
from helpers.updates import assert_moved_alike, drawn_rows

FP32 = Compute(torch.device("cpu"), torch.float32)


def paper_sized(**latent: object) -> Config:
    """The paper's settings and networks with small batches."""
    settings = preset("procgen:bossfight", "paper")
    settings = replace_in(settings, "features", batch_size=8)
    settings = replace_in(settings, "latent_actions", batch_size=6, **latent)
    settings = replace_in(settings, "policy", batch_size=6)
    return replace_in(settings, "online", finetune_batch_size=6, clone_batch_size=6)


def noise(sized: Callable[..., Config]) -> float:
    return 1e-4 if sized is small else 1e-2


def small(**latent: object) -> Config:
    """The paper's settings with small networks and batches."""
    narrow = {"impala_channels": (4, 8), "hidden_dim": 32}
    settings = paper_sized(world_model_width=4, **narrow, **latent)
    settings = replace_in(settings, "encoder", channels=4, stride=2, residual_blocks=1)
    settings = replace_in(settings, "features", projection_dim=16, hidden_dim=24)
    return replace_in(settings, "policy", **narrow)


SIZES = pytest.mark.parametrize("sized", [small, paper_sized])


def make(settings: Config) -> tuple[Agent, WindowSampler]:
    torch.manual_seed(0)
    agent = Agent(settings, spec("procgen:bossfight"), FP32)
    frames = np.random.default_rng(0).integers(0, 256, (60, 3, 64, 64), dtype=np.uint8)
    store = FrameStore.from_episodes(frames, np.array([25, 35]), FP32.device)
    return agent, WindowSampler(store, Window(1, 1), torch.Generator().manual_seed(1))


def own_windows(sampler: WindowSampler, actions: Tensor) -> ReplaySampler:
    """The frames of `sampler` as own transitions with `actions` [60], drawn by the same generator."""
    replay = Replay(59, 1, spec("procgen:bossfight"), FP32.device)
    for row in range(60):
        last = row in (24, 59)
        frame = sampler.store.frames[row : row + 1].numpy()
        replay.append(np.array([0]), frame, None if last else actions[row : row + 1].numpy(), ends=last)
    own = ReplaySampler(replay, Window(1, 1), sampler.generator)
    assert own.refresh()
    assert own.centers[: int(own.count)].tolist() == sampler.centers.tolist()
    return own


def cloning(settings: Config, agent: Agent, sampler: WindowSampler, **options: float) -> Cloning:
    return Cloning(settings.policy, agent, sampler, batch_size=6, **options)  # type: ignore[arg-type]


def pixels(sampler: WindowSampler, index: Tensor) -> Tensor:
    return sampler.store.frames[index].float() / 255 - 0.5


@pytest.mark.parametrize("gain", [0.0, 8.0])
def test_only_the_predictor_sees_a_longer_future(gain: float) -> None:
    """With future_frames=2, p reads o_{t+2}, and w still predicts o_{t+1} from the frames before it."""
    settings = small(future_frames=2, motion_gain=gain)
    torch.manual_seed(0)
    agent = Agent(settings, spec("procgen:bossfight"), FP32)
    channels = agent.encoder.channels
    frames = torch.randn(4, 3, channels, 32, 32)
    changed = frames.clone()
    changed[-1] += 1
    assert not torch.allclose(agent.predictor(frames.flatten(0, 1)), agent.predictor(changed.flatten(0, 1)))
    inputs: list[Tensor] = []
    agent.world_model.forward = lambda features, _: inputs.append(features) or features[:, -channels:]
    features = frames.flatten(0, 1)
    error = prediction_error(agent, features, agent.codebook(agent.latent_action(features)))
    assert torch.equal(inputs[0], torch.cat([frames[0], frames[1]], dim=1))
    expected = (frames[1] - frames[2]).square().mean()
    torch.testing.assert_close(error, expected)
    torch.testing.assert_close(copy_error(agent, features), expected)


def features_of(encoder: nn.Module, sampler: WindowSampler, centers: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [encoder(pixels(sampler, index)) for index in neighbors(centers)]


def neighbors(centers: Tensor) -> list[Tensor]:
    """Indices of o_{t-1}, o_t and o_{t+1}; the first frame of an episode repeats."""
    begin = torch.where(centers < 25, 0, 25)
    return [torch.maximum(centers - 1, begin), centers, centers + 1]


def predicted(predictor: nn.Module, *frames: Tensor) -> Tensor:
    """z [B, latent_dim] in plain code, without motion gain."""
    return predictor.head(predictor.trunk(torch.cat(frames, dim=1)))


def distance(a: nn.Module, b: nn.Module) -> float:
    """Norm of the difference between the weights of two networks."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return float(torch.stack([(p - q).detach().norm() for p, q in pairs]).norm())


def test_contrastive_loss_is_equation_1() -> None:
    agent, sampler = make(small())
    heads = build_heads(small().features, agent.encoder)
    target = nn.ModuleList([copy.deepcopy(agent.encoder), copy.deepcopy(heads.projector)])
    anchor, positive = pixels(sampler, torch.arange(5)), pixels(sampler, torch.arange(5) + 1)
    loss = contrastive_loss(agent.encoder, heads, target, anchor, positive, alpha=0.1)
    a = heads.predictor(heads.projector(agent.encoder(anchor)))
    b = target[1](target[0](positive))
    weight = heads.bilinear.weight
    score = torch.stack([torch.stack([a[i] @ (weight @ b[j]) for j in range(5)]) for i in range(5)])
    by_hand = torch.stack([-(score[i, i] - score[i].exp().sum().log()) for i in range(5)]).mean()
    torch.testing.assert_close(loss.contrast, by_hand, rtol=1e-4, atol=1e-5)
    rebuilt = heads.pixel_decoder(agent.encoder(anchor))
    by_hand = by_hand + 0.1 * (rebuilt - anchor).square().mean()
    torch.testing.assert_close(loss.total, by_hand, rtol=1e-4, atol=1e-5)


@SIZES
def test_features_update(sized: Callable[..., Config]) -> None:
    settings = sized()
    agent, sampler = make(settings)
    learner = Features(settings.features, agent, sampler)
    encoder, heads = copy.deepcopy(agent.encoder), copy.deepcopy(learner.heads)
    target, initial = copy.deepcopy(learner.target), copy.deepcopy(learner.target)
    generator = torch.Generator().manual_seed(1)
    trained = [*encoder.parameters(), *heads.parameters()]
    adam = torch.optim.Adam(trained, lr=settings.features.learning_rate)
    learner.step()
    assert learner.done == 2
    drawn = sampler.centers[drawn_rows(sampler, (2, 8), generator)]
    for update, centers in enumerate(drawn):
        offset = torch.randint(3, (2, 8, 2), generator=generator)
        views = []
        for view in range(2):
            padded = F.pad(sampler.store.frames[centers].float(), (1,) * 4, mode="replicate")
            crops = [padded[i, :, y : y + 64, x : x + 64] for i, (y, x) in enumerate(offset[view].tolist())]
            views.append(torch.stack(crops) / 255 - 0.5)
        query = heads.predictor(heads.projector(encoder(views[0])))
        with torch.no_grad():
            key = target[1](target[0](views[1]))
        loss = F.cross_entropy(query @ heads.bilinear.weight @ key.T, torch.arange(8))
        loss = loss + 0.1 * F.mse_loss(heads.pixel_decoder(encoder(views[0])), views[0])
        adam.zero_grad()
        loss.backward()
        adam.step()
        if update == 1:  # the target follows every second update
            online = [*encoder.parameters(), *heads.projector.parameters()]
            for t, p in zip(target.parameters(), online, strict=True):
                t.data = 0.95 * t.data + 0.05 * p.data
    assert_moved_alike(agent.encoder, encoder, noise(sized))
    assert_moved_alike(learner.heads, heads, noise(sized))
    # Where a gradient is rounding noise, Adam may step the other way, and the target moves by a twentieth of that step.
    assert distance(learner.target, target) <= 0.01 * distance(target, initial)
    assert distance(target, initial) > 0


def test_reconstruction_can_stay_untrained_as_in_the_official_code() -> None:
    settings = replace_in(small(), "features", train_reconstruction=False)
    agent, sampler = make(settings)
    learner = Features(settings.features, agent, sampler)
    before = copy.deepcopy(learner.heads.pixel_decoder)
    learner.step()
    pairs = zip(learner.heads.pixel_decoder.parameters(), before.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@SIZES
@pytest.mark.parametrize("output", ["tanh_half", "linear"])
def test_latent_actions_update(sized: Callable[..., Config], output: str) -> None:
    settings = sized(world_model_output=output)
    agent, sampler = make(settings)
    learner = LatentActions(settings.latent_actions, agent, sampler)
    plain = copy.deepcopy(agent).train()
    codes = plain.codebook.codes.clone()
    learner.step()
    metrics = learner.read_metrics()

    generator = torch.Generator().manual_seed(1)
    centers = sampler.centers[drawn_rows(sampler, (6,), generator)]
    past, now, future = features_of(plain.encoder, sampler, centers)
    z = predicted(plain.predictor, past, now, future)
    split = z.view(6, 2, 16, 4)
    distance = (split.permute(0, 1, 3, 2)[:, :, :, None] - codes[None, :, None]).square().sum(4)  # [B, K, P, M]
    index = distance.argmin(3)
    picked = torch.stack([codes[k][index[:, k]] for k in range(2)], dim=1).permute(0, 1, 3, 2).reshape(6, 128)
    commitment = (z - picked).square().mean()
    prediction = plain.world_model(torch.cat([past, now], dim=1), z + (picked - z).detach())
    loss = (prediction - future).square().mean() + 0.05 * commitment
    trained = [*plain.predictor.parameters(), *plain.world_model.parameters()]
    adam = torch.optim.AdamW(trained, lr=3e-4, weight_decay=0.01)
    loss.backward()
    nn.utils.clip_grad_norm_(trained, 2.0)
    adam.step()
    torch.testing.assert_close(metrics["loss"], loss.item(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(metrics["copy_error"], float((now - future).square().mean()), rtol=1e-5, atol=1e-7)
    assert_moved_alike(agent.predictor, plain.predictor, noise(sized))
    assert_moved_alike(agent.world_model, plain.world_model, noise(sized))
    assert not torch.equal(agent.codebook.codes, codes)


@pytest.mark.parametrize(
    ("sized", "updates", "weight"),
    [(small, 16, 0.0), (small, 1, 0.0), (paper_sized, 1, 0.0), (small, 16, 0.7), (paper_sized, 1, 0.7)],
)
def test_cloning_update(sized: Callable[..., Config], updates: int, weight: float) -> None:
    """16 updates draw more windows than the store has, so all are labeled at once; 1 does not."""
    settings = sized()
    agent, sampler = make(settings)
    learner = cloning(
        settings, agent, sampler, updates=updates, learning_rate=2e-4, weight_decay=0.01, decoded_weight=weight
    )
    assert learner.label_all == (updates == 16)
    plain = copy.deepcopy(agent)
    learner.step()
    assert learner.done == updates

    generator = torch.Generator().manual_seed(1)
    drawn = sampler.centers[drawn_rows(sampler, (updates, 6), generator)]
    adam = torch.optim.AdamW(plain.policy.parameters(), lr=2e-4, weight_decay=0.01)
    for centers in drawn:
        past, now, future = features_of(plain.encoder, sampler, centers)
        with torch.no_grad():
            z = predicted(plain.predictor, past, now, future)
        cloned = plain.policy(now)
        loss = (cloned - z).square().mean()
        if weight:
            target = plain.decoder(z).softmax(dim=1).detach()
            log_ratio = target.log() - plain.decoder(cloned).log_softmax(dim=1)
            loss = loss / z.var(dim=0).mean() + weight * (target * log_ratio).sum(dim=1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert_moved_alike(agent.policy, plain.policy, noise(sized))
    for own, before in zip(agent.decoder.parameters(), plain.decoder.parameters(), strict=True):
        assert torch.equal(own, before)


@pytest.mark.parametrize("as_tensor", [False, True])  # a number, or a tensor that a graph reads
def test_cloning_anneals_where_configured(as_tensor: bool) -> None:
    agent, sampler = make(small())
    learner = cloning(small(), agent, sampler, updates=4, learning_rate=4e-3)
    (group,) = learner.optimizers["policy"].param_groups
    rate = group["lr"] = torch.tensor(4e-3) if as_tensor else 4e-3
    learner.together = 1
    for anneals, expected in ((False, [4e-3] * 4), (True, [4e-3, 3e-3, 2e-3, 1e-3])):
        learner.anneals = anneals
        learner.begin_round(0)
        learner.done = 0
        found = []
        while learner.done < learner.updates:
            learner.step()
            found.append(float(group["lr"]))
        assert found == pytest.approx(expected)
    assert not as_tensor or group["lr"] is rate


@SIZES
def test_finetuning_update_is_equation_3(sized: Callable[..., Config]) -> None:
    settings = sized()
    agent, sampler = make(settings)
    actions = torch.randint(15, (60,))
    learner = Finetuning(settings, agent, own_windows(sampler, actions))
    plain = copy.deepcopy(agent).train()
    learner.step()
    metrics = learner.read_metrics()

    generator = torch.Generator().manual_seed(1)
    centers = sampler.centers[drawn_rows(sampler, (6,), generator)]
    past, now, future = features_of(plain.encoder, sampler, centers)
    z = predicted(plain.predictor, past, now, future)
    code = plain.codebook(z)
    prediction = plain.world_model(torch.cat([past, now], dim=1), code.quantized)
    action_loss = F.cross_entropy(plain.decoder(z), actions[centers])
    loss = action_loss + 15 * ((prediction - future).square().mean() + 0.05 * code.commitment)
    loss.backward()
    torch.optim.Adam(plain.predictor.parameters(), lr=2e-5).step()
    torch.optim.Adam(plain.decoder.parameters(), lr=1e-3).step()
    torch.testing.assert_close(metrics["loss"], loss.item(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metrics["action_loss"], action_loss.item(), rtol=1e-5, atol=1e-6)
    assert_moved_alike(agent.predictor, plain.predictor, noise(sized))
    assert_moved_alike(agent.decoder, plain.decoder, noise(sized))


def test_finetuning_without_regularization_is_only_the_action_loss() -> None:
    agent, sampler = make(small())
    features = agent.frame_features(*sampler.take(sampler.centers[:6]))
    actions = torch.randint(15, (6,))
    loss = finetuning_loss(agent, features, agent.latent_action(features), None, actions, beta=0.0, commitment=0.05)
    assert torch.equal(loss.total, loss.action)
    assert float(loss.regularization) == 0.0


def test_without_regularization_the_codebook_stays() -> None:
    settings = replace_in(small(), "online", regularisation=0.0)
    agent, sampler = make(settings)
    codes = agent.codebook.codes.clone()
    Finetuning(settings, agent, own_windows(sampler, torch.randint(15, (60,)))).step()
    assert torch.equal(agent.codebook.codes, codes)


def test_losses_change_no_mode_and_move_no_codebook() -> None:
    agent, sampler = make(small())
    features = agent.frame_features(*sampler.take(sampler.centers[:6]))
    before = copy.deepcopy(agent.state_dict())
    z = agent.latent_action(features)
    code = agent.codebook(z)
    latent_action_loss(agent, features, code, commitment=0.05)[0].backward(retain_graph=True)
    finetuning_loss(agent, features, z, code, torch.zeros(6, dtype=torch.int64), beta=1.0, commitment=0.05)
    predicted = agent.policy(features[:6])
    (cloning_loss(predicted, z) + decoded_difference(agent, predicted, z)).backward()
    assert not any(module.training for module in agent.modules())
    assert all(torch.equal(a, b) for a, b in zip(agent.state_dict().values(), before.values(), strict=True))


def test_finetuning_leaves_world_model_weights_and_encoder() -> None:
    settings = small()
    agent, sampler = make(settings)
    agent.encoder.requires_grad_(False)
    before = copy.deepcopy(agent)
    Finetuning(settings, agent, own_windows(sampler, torch.zeros(60, dtype=torch.int64))).step()
    for name in ("encoder", "world_model", "policy"):
        pairs = zip(getattr(agent, name).parameters(), getattr(before, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name


class Unchanged(nn.Identity):
    """An encoder whose features are the frames."""


def test_a_shifted_window_shifts_all_its_frames_alike() -> None:
    agent, sampler = make(small())
    agent.encoder = Unchanged()
    centers = sampler.centers[:16]
    frames, index = sampler.take(centers)
    window = agent.frame_features(frames, index, sampler.draw_shifts(16, 2), 2)
    window = torch.cat(window.chunk(3), dim=1)
    plain = torch.cat([pixels(sampler, index) for index in neighbors(centers)], dim=1)
    padded = F.pad(plain, (2,) * 4, mode="replicate")
    crops = torch.stack([padded[:, :, y : y + 64, x : x + 64] for y in range(5) for x in range(5)])  # [25, B, ...]
    matches = (crops - window).abs().amax(dim=(2, 3, 4)) < 1e-6
    assert bool((matches.sum(dim=0) == 1).all())
    assert len(set(matches.int().argmax(dim=0).tolist())) > 3
    unshifted = agent.frame_features(frames, index)
    torch.testing.assert_close(torch.cat(unshifted.chunk(3), dim=1), plain)
