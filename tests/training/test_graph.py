"""Updates can be captured in a CUDA graph, and captured updates equal plain ones."""

import gc
import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bcvlr_fast.config.fields import replace_in
from bcvlr_fast.envs import spec
from bcvlr_fast.envs.specs import FRAME_SHAPE
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.methods.bcvlr.synthetic import PHASES, learner_of, random_frames, store_of
from bcvlr_fast.methods.policy import Actor, Policy
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.training.graph import capture
from bcvlr_fast.training.learner import Learner, largest_divisor

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
    "lift_fresh",  # a tensor made from a host value, which would have to be copied
}


def small(scale: str) -> Config:
    settings = preset("procgen:bossfight", scale)
    settings = replace_in(settings, "encoder", channels=4)
    settings = replace_in(settings, "features", batch_size=8, projection_dim=16, hidden_dim=24)
    narrow = {"impala_channels": (4, 8), "hidden_dim": 32}
    settings = replace_in(settings, "latent_actions", batch_size=6, world_model_width=4, **narrow)
    settings = replace_in(settings, "policy", batch_size=6, **narrow)
    return replace_in(settings, "online", finetune_batch_size=6, clone_batch_size=6, capacity=600)


class NoHostReads(TorchDispatchMode):
    """Fails on operations that make the host wait for a value on the device, which cannot be captured."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        boolean = [a for a in args[1:2] if isinstance(a, list | tuple)]
        masks = [i for indices in boolean for i in indices if isinstance(i, Tensor) and i.dtype == torch.bool]
        if name in HOST_READS or (name.startswith("index") and masks):
            raise AssertionError(f"{func} reads a value on the host")
        return func(*args, **(kwargs or {}))


SPEC = spec("procgen:bossfight")


def make(phase: str, scale: str, device: torch.device) -> Learner:
    compute = Compute(device, torch.float32)
    return learner_of(phase, small(scale), compute, store_of(random_frames(1200), device))


def acting() -> Policy:
    return Agent(small("quick"), SPEC, Compute(CPU, torch.float32)).acting_policy()


@pytest.mark.parametrize("scale", ["paper", "quick"])
@pytest.mark.parametrize("phase", PHASES)
def test_no_update_reads_a_value_on_the_host(phase: str, scale: str) -> None:
    learner = make(phase, scale, CPU)
    learner.step()  # optimizers create their state
    with NoHostReads():
        learner.prepare(2)
        learner.update(0)
        learner.update(1)


@pytest.mark.parametrize("sampled", [True, False])
def test_acting_reads_no_value_on_the_host(sampled: bool) -> None:
    policy = acting()
    with NoHostReads():
        policy.act(torch.zeros(3, *FRAME_SHAPE, dtype=torch.uint8), torch.Generator() if sampled else None)


def test_actions_are_sampled_with_their_probabilities() -> None:
    policy = acting()
    probabilities = torch.tensor([0.5, 0.3, 0.2, *[0.0] * 12])
    policy.forward = lambda frames: probabilities.log().expand(len(frames), -1)  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    frames = torch.zeros(1, *FRAME_SHAPE, dtype=torch.uint8).expand(20_000, -1, -1, -1)
    frequencies = policy.act(frames, generator).bincount(minlength=15) / 20_000
    torch.testing.assert_close(frequencies, probabilities, atol=0.012, rtol=0)  # 3.4 standard errors


def test_an_actor_acts_on_the_given_frames() -> None:
    policy, frames = acting(), random_frames(8)
    actor = Actor(policy, 8, torch.Generator().manual_seed(3))
    assert (actor(frames) == policy.act(frames, torch.Generator().manual_seed(3))).all()
    assert actor(frames[:3]).shape == (3,)


def test_the_check_finds_a_host_read() -> None:
    with NoHostReads(), pytest.raises(AssertionError, match="reads a value"):
        torch.ones(3).sum().item()
    with NoHostReads(), pytest.raises(AssertionError, match="reads a value"):
        _ = torch.ones(3)[torch.tensor([True, False, True])]


@pytest.mark.parametrize("phase", PHASES)
def test_an_update_keeps_the_memory_of_its_state(phase: str) -> None:
    """Weights, moments, codes, statistics and targets keep their addresses, which a captured graph uses."""
    learner = make(phase, "paper", CPU)
    learner.step()
    before = addresses(learner)
    learner.step()
    assert addresses(learner) == before
    assert len(before) > 10


def test_labels_are_refreshed_in_place() -> None:
    """A graph of the first round also reads them in the second, where they come from the changed p."""
    settings = small("quick")
    compute = Compute(CPU, torch.float32)
    learner = learner_of("pre-imitation", settings, compute, store_of(random_frames(600), CPU))
    assert isinstance(learner, Cloning)
    assert learner.label_all
    learner.step()
    assert learner._all_labels is not None
    before, place = learner._all_labels.clone(), learner._all_labels.data_ptr()
    learner.step()
    assert torch.equal(learner._all_labels, before)
    with torch.no_grad():
        for parameter in learner.agent.predictor.parameters():
            parameter.mul_(1.5)
    learner.begin_round(1)
    learner.step()
    assert learner._all_labels.data_ptr() == place
    assert not torch.equal(learner._all_labels, before)


def test_a_finished_learner_is_freed() -> None:
    """Reference counting frees its weights and its graph's memory, without the garbage collector."""
    learner = make("features", "quick", CPU)
    learner.step()
    reference = weakref.ref(learner)
    gc.disable()
    try:
        del learner
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("phase", PHASES)
def test_compiled_networks_give_the_same_losses(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests --compile with a compiler that only traces."""

    def traced(network: torch.nn.Module, **options: Any) -> None:
        network._compiled_call_impl = torch.compile(network._call_impl, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    losses = []
    for compiled in (False, True):
        compute = Compute(CPU, torch.float32, compile=compiled)
        learner = learner_of(phase, small("quick"), compute, store_of(random_frames(1200), CPU))
        learner.step()
        losses.append(learner.read_metrics()["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def addresses(learner: Learner) -> list[int]:
    return [t.data_ptr() for t in state_of(learner)]


def state_of(learner: Learner) -> list[Tensor]:
    """Every tensor that an update may write to and that outlives it."""
    owner: Any = getattr(learner, "agent", learner)
    modules = [m for m in vars(owner).values() if isinstance(m, torch.nn.Module)]
    modules += list(owner.children()) if isinstance(owner, torch.nn.Module) else []
    tensors = [t for m in [*modules, *learner.networks.values()] for t in m.state_dict(keep_vars=True).values()]
    for optimizer in learner.optimizers.values():
        tensors += [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return tensors


@pytest.mark.parametrize("phase", ["features", "latent actions", "cloning"])
def test_streamed_training_is_deterministic(phase: str) -> None:
    """The store exceeds its budget, so a thread gathers its frames."""
    store = store_of(random_frames(1200), CPU, budget_gb=0.001)
    assert store.placement == "mapped"
    losses = []
    for _ in range(2):
        learner = learner_of(phase, small("quick"), Compute(CPU, torch.float32), store)
        for _ in range(3):
            learner.step()
        losses.append(learner.read_metrics()["loss"])
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0])


@pytest.mark.parametrize(
    ("updates", "limit", "period", "together"),
    [
        (20_000, 16, 2, 16),
        (500, 16, 1, 10),
        (60, 16, 1, 15),
        (10_007, 16, 1, 16),  # a prime: the last step is shorter
        (7, 16, 2, 16),
        (5, 2, 2, 2),
        (0, 1, 1, 1),
    ],
)
def test_largest_divisor(updates: int, limit: int, period: int, together: int) -> None:
    assert largest_divisor(updates, limit, period) == together


@pytest.mark.parametrize("together", [1, 4])
def test_grouped_updates_equal_single_ones(together: int) -> None:
    """10 updates run one by one or in groups of four. Groups change the order of draws, so nothing is random here."""
    weights = []
    for size in (1, together):
        learner = make("fine-tuning", "quick", CPU)
        learner.updates, learner.together = 10, size
        learner.batches.sampler.count.fill_(1)
        learner.config = replace_in(learner.config, "online", finetune_shift_pad=0)  # type: ignore[attr-defined]
        while learner.done < learner.updates:
            learner.step()
        assert learner.done == 10
        weights.append(torch.cat([p.detach().flatten() for p in state_of(learner) if p.is_floating_point()]))
    assert torch.equal(weights[0], weights[1])


def test_metrics_are_means_since_the_last_reading() -> None:
    learner = make("latent actions", "quick", CPU)
    losses = []
    update = learner.update
    learner.update = lambda number: losses.append(update(number)) or losses[-1]  # type: ignore[method-assign]
    for _ in range(3):
        learner.step()
    assert learner.read_metrics()["loss"] == pytest.approx(sum(float(m["loss"].detach()) for m in losses) / 3)
    learner.step()
    assert learner.read_metrics()["loss"] == pytest.approx(float(losses[-1]["loss"].detach()))


def test_one_update_with_nan_makes_the_mean_nan() -> None:
    learner = make("latent actions", "quick", CPU)
    update = learner.update
    for bad in (True, False, False):
        learner.update = lambda number, bad=bad: {  # type: ignore[method-assign]
            k: v * float("nan") if bad else v for k, v in update(number).items()
        }
        learner.step()
    assert math.isnan(learner.read_metrics()["loss"])


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Deterministic algorithms. For max-pooling, whose backward pass is deterministic in practice, torch only warns."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    yield
    torch.use_deterministic_algorithms(False)


@GPU
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("phase", PHASES)
def test_captured_updates_equal_plain_ones(phase: str) -> None:
    """They are equal bit for bit, generator included, also after the number of windows and the learning rate change."""
    device = torch.device("cuda", 0)
    states = []
    for captured in (False, True):
        learner = make(phase, "paper", device)
        learner.together = 4
        if not captured:
            learner._step = lambda learner=learner: learner._run(4)  # type: ignore[method-assign]
        for step in range(8):
            if step == 6:
                learner.batches.sampler.count.fill_(11)
                for optimizer in learner.optimizers.values():
                    optimizer.param_groups[0]["lr"].mul_(0.5)
            learner.step()
        states.append([*(t.clone() for t in state_of(learner)), learner.batches.sampler.generator.get_state()])
    for plain, replayed in zip(*states, strict=True):
        assert torch.equal(plain, replayed)


@GPU
def test_a_graph_replay_draws_new_numbers() -> None:
    device = torch.device("cuda", 0)
    generator = torch.Generator(device).manual_seed(0)
    out = torch.zeros(5, device=device)
    work = capture(lambda: out.copy_(torch.rand(5, generator=generator, device=device)), device, generator)
    replayed = []
    for _ in range(6):
        work()
        replayed.append(out.clone())
    generator.manual_seed(0)
    for values in replayed:
        assert torch.equal(values, torch.rand(5, generator=generator, device=device))


def test_capture_on_a_cpu_calls_the_work_itself() -> None:
    calls = []
    work = capture(lambda: calls.append(1), CPU)
    work()
    work()
    assert calls == [1, 1]
