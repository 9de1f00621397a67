"""Updates that can be captured, and captured ones that equal plain ones."""

import gc
import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bcvlr_fast import config
from bcvlr_fast.config import Config, replace_in
from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Actor, Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.graph import capture
from bcvlr_fast.training.learner import Stage, largest_divisor
from helpers.phases import FRAME, PHASES, random_frames, stage_of, store_of

CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing to capture")
HOST_READS = {
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "_unique2",
    "equal",
    "multinomial",
    "lift_fresh",  # a tensor made of a host's value, which would have to travel
}


def small(scale: str) -> Config:
    settings = config.preset("procgen:bossfight", scale)
    settings = replace_in(settings, "encoder", channels=4)
    settings = replace_in(settings, "features", batch_size=8, projection_dim=16, hidden_dim=24)
    narrow = {"impala_channels": (4, 8), "hidden_dim": 32}
    settings = replace_in(settings, "latent_actions", batch_size=6, world_model_width=4, **narrow)
    settings = replace_in(settings, "policy", batch_size=6, **narrow)
    return replace_in(settings, "online", finetune_batch_size=6, clone_batch_size=6, capacity=600)


class NoHostReads(TorchDispatchMode):
    """Fails on what would wait for the device to tell the host a value, and so cannot be captured."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        boolean = [a for a in args[1:2] if isinstance(a, list | tuple)]
        masks = [i for indices in boolean for i in indices if isinstance(i, Tensor) and i.dtype == torch.bool]
        if name in HOST_READS or (name.startswith("index") and masks):
            raise AssertionError(f"{func} reads a value on the host")
        return func(*args, **(kwargs or {}))


SPEC = spec("procgen:bossfight")


def make(phase: str, scale: str, device: torch.device) -> Stage:
    compute = Compute(device, torch.float32)
    return stage_of(phase, small(scale), compute, store_of(random_frames(1200), device))


@pytest.mark.parametrize("scale", ["paper", "quick"])
@pytest.mark.parametrize("phase", PHASES)
def test_no_update_reads_a_value_on_the_host(phase: str, scale: str) -> None:
    stage = make(phase, scale, CPU)
    stage.step()  # optimisers make their state
    with NoHostReads():
        stage.prepare(2)
        stage.update(0)
        stage.update(1)


@pytest.mark.parametrize("sampled", [True, False])
def test_acting_reads_no_value_on_the_host(sampled: bool) -> None:
    agent = Agent(small("quick"), SPEC, Compute(CPU, torch.float32))
    with NoHostReads():
        agent.act(torch.zeros(3, *FRAME, dtype=torch.uint8), torch.Generator() if sampled else None)


def test_actions_are_sampled_in_their_shares() -> None:
    agent = Agent(small("quick"), SPEC, Compute(CPU, torch.float32))
    shares = torch.tensor([0.5, 0.3, 0.2, *[0.0] * 12])
    agent.decoded = lambda frames: shares.log().expand(len(frames), -1)  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    found = agent.act(torch.zeros(20_000, 1), generator).bincount(minlength=15) / 20_000
    torch.testing.assert_close(found, shares, atol=0.012, rtol=0)  # 3.4 standard errors


def test_an_actor_acts_for_the_frames_given() -> None:
    agent = Agent(small("quick"), SPEC, Compute(CPU, torch.float32))
    frames = random_frames(8)
    actor = Actor(agent, 8, torch.Generator().manual_seed(3))
    assert (actor(frames) == agent.act(torch.from_numpy(frames), torch.Generator().manual_seed(3)).numpy()).all()
    assert actor(frames[:3]).shape == (3,)


def test_the_check_finds_a_read() -> None:
    with NoHostReads(), pytest.raises(AssertionError, match="reads a value"):
        torch.ones(3).sum().item()
    with NoHostReads(), pytest.raises(AssertionError, match="reads a value"):
        _ = torch.ones(3)[torch.tensor([True, False, True])]


@pytest.mark.parametrize("phase", PHASES)
def test_an_update_leaves_its_state_where_it_is(phase: str) -> None:
    """Weights, moments, codes, statistics and targets keep their memory: a replay finds them there."""
    stage = make(phase, "paper", CPU)
    stage.step()
    held = places(stage)
    stage.step()
    assert places(stage) == held
    assert len(held) > 10


def test_labels_are_renewed_in_place() -> None:
    """A graph of the first round reads them in the second; and they are the changed p's."""
    settings = small("quick")
    compute = Compute(CPU, torch.float32)
    stage = stage_of("pre-imitation", settings, compute, store_of(random_frames(600), CPU))
    assert isinstance(stage, Cloning)
    assert stage.label_all
    stage.step()
    assert stage._all_labels is not None
    before, place = stage._all_labels.clone(), stage._all_labels.data_ptr()
    stage.step()
    assert torch.equal(stage._all_labels, before)
    with torch.no_grad():
        for parameter in stage.predictor.parameters():
            parameter.mul_(1.5)
    stage.restart(1)
    stage.step()
    assert stage._all_labels.data_ptr() == place
    assert not torch.equal(stage._all_labels, before)


def test_a_finished_stage_goes() -> None:
    """By reference count: its weights, and on a GPU its graph's memory, are not left to the collector."""
    stage = make("features", "quick", CPU)
    stage.step()
    held = weakref.ref(stage)
    gc.disable()
    try:
        del stage
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("phase", PHASES)
def test_compiled_networks_give_the_same_losses(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--compile, with a compiler that only traces."""

    def traced(network: torch.nn.Module, **options: Any) -> None:
        network._compiled_call_impl = torch.compile(network._call_impl, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    losses = []
    for compiled in (False, True):
        compute = Compute(CPU, torch.float32, compile=compiled)
        stage = stage_of(phase, small("quick"), compute, store_of(random_frames(1200), CPU))
        stage.step()
        losses.append(stage.read_metrics()["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def places(stage: Stage) -> list[int]:
    return [t.data_ptr() for t in state_of(stage)]


def state_of(stage: Stage) -> list[Tensor]:
    """Every tensor that an update may write to and that lives on."""
    owner: Any = getattr(stage, "agent", stage)
    modules = [m for m in vars(owner).values() if isinstance(m, torch.nn.Module)]
    modules += list(owner.children()) if isinstance(owner, torch.nn.Module) else []
    found = [t for m in [*modules, *stage.networks.values()] for t in m.state_dict(keep_vars=True).values()]
    for optimizer in stage.optimizers.values():
        found += [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return found


@pytest.mark.parametrize("phase", ["features", "latent actions", "cloning"])
def test_streamed_frames_teach_the_same_twice(phase: str) -> None:
    """From a store beyond its budget, whose frames a thread gathers."""
    store = store_of(random_frames(1200), CPU, budget_gb=0.001)
    assert store.placement == "mapped"
    losses = []
    for _ in range(2):
        stage = stage_of(phase, small("quick"), Compute(CPU, torch.float32), store)
        for _ in range(3):
            stage.step()
        losses.append(stage.read_metrics()["loss"])
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0])


@pytest.mark.parametrize(
    ("updates", "most", "period", "together"),
    [
        (20_000, 16, 2, 16),
        (500, 16, 1, 10),
        (60, 16, 1, 15),
        (10_007, 16, 1, 16),  # a prime: with a rest
        (7, 16, 2, 16),
        (5, 2, 2, 2),
        (0, 1, 1, 1),
    ],
)
def test_updates_of_a_step(updates: int, most: int, period: int, together: int) -> None:
    assert largest_divisor(updates, most, period) == together


@pytest.mark.parametrize("together", [1, 4])
def test_steps_and_their_rest_are_the_same_updates(together: int) -> None:
    """10 updates one by one, or by four with two left over: only the draws' order tells them apart, so none here."""
    weights = []
    for size in (1, together):
        stage = make("fine-tuning", "quick", CPU)
        stage.updates, stage.together = 10, size
        stage.batches.sampler.count.fill_(1)
        stage.config = replace_in(stage.config, "online", finetune_shift_pad=0)  # type: ignore[attr-defined]
        while stage.done < stage.updates:
            stage.step()
        assert stage.done == 10
        weights.append(torch.cat([p.detach().flatten() for p in state_of(stage) if p.is_floating_point()]))
    assert torch.equal(weights[0], weights[1])


def test_metrics_are_means_since_the_last_reading() -> None:
    stage = make("latent actions", "quick", CPU)
    losses = []
    update = stage.update
    stage.update = lambda number: losses.append(update(number)) or losses[-1]  # type: ignore[method-assign]
    for _ in range(3):
        stage.step()
    assert stage.read_metrics()["loss"] == pytest.approx(sum(float(m["loss"].detach()) for m in losses) / 3)
    stage.step()
    assert stage.read_metrics()["loss"] == pytest.approx(float(losses[-1]["loss"].detach()))


def test_one_bad_update_shows_in_the_mean() -> None:
    stage = make("latent actions", "quick", CPU)
    update = stage.update
    for bad in (True, False, False):
        stage.update = lambda number, bad=bad: {  # type: ignore[method-assign]
            k: v * float("nan") if bad else v for k, v in update(number).items()
        }
        stage.step()
    assert math.isnan(stage.read_metrics()["loss"])


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Algorithms that give the same bits each time; torch only warns of max-pooling, whose backward does."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    yield
    torch.use_deterministic_algorithms(False)


@GPU
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("phase", PHASES)
def test_captured_updates_equal_plain_ones(phase: str) -> None:
    """Bit for bit, generator included, with a changed number of windows and a changed rate between replays."""
    device = torch.device("cuda", 0)
    ends = []
    for captured in (False, True):
        stage = make(phase, "paper", device)
        stage.together = 4
        if not captured:
            stage._step = lambda stage=stage: stage._run(4)  # type: ignore[method-assign]
        for step in range(8):
            if step == 6:
                stage.batches.sampler.count.fill_(11)
                for optimizer in stage.optimizers.values():
                    optimizer.param_groups[0]["lr"].mul_(0.5)
            stage.step()
        ends.append([*(t.clone() for t in state_of(stage)), stage.batches.sampler.generator.get_state()])
    for plain, replayed in zip(*ends, strict=True):
        assert torch.equal(plain, replayed)


@GPU
def test_a_replay_draws_new_numbers() -> None:
    device = torch.device("cuda", 0)
    generator = torch.Generator(device).manual_seed(0)
    out = torch.zeros(5, device=device)
    work = capture(lambda: out.copy_(torch.rand(5, generator=generator, device=device)), device, generator)
    seen = []
    for _ in range(6):
        work()
        seen.append(out.clone())
    generator.manual_seed(0)
    for values in seen:
        assert torch.equal(values, torch.rand(5, generator=generator, device=device))


def test_a_cpu_calls_the_work_itself() -> None:
    calls = []
    work = capture(lambda: calls.append(1), CPU)
    work()
    work()
    assert calls == [1, 1]
