"""Assignments, gradients and EMA updates of every backend, compared with direct formulas."""

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from bcvlr_fast.kernels import NearestCode, nearest_code
from helpers.backends import Backend, instruction_set, on_each_backend, running


def split(z: Tensor, books: int, dim: int) -> Tensor:
    """[K, B, P, D] of LAPO's layout, element (k * D + d) * P + p."""
    return z.view(len(z), books, dim, -1).permute(1, 0, 3, 2)


def draw(books: int, size: int, dim: int, positions: int, batch: int, seed: int) -> tuple[Tensor, ...]:
    """z, codes, ema_count, ema_sum"""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, books * dim * positions, generator=generator),
        torch.randn(books, size, dim, generator=generator),
        torch.rand(books, size, generator=generator) + 0.5,
        torch.randn(books, size, dim, generator=generator),
    )


def run(backend: Backend, state: tuple[Tensor, ...], **options: float) -> tuple[NearestCode, list[Tensor]]:
    """The result of nearest_code, and the codes, counts and sums after it; all on the CPU."""
    z, *book = (tensor.to(backend.device, copy=True) for tensor in state)
    result = nearest_code(z, *book, **options)
    return NearestCode(*(t.cpu() for t in result)), [t.cpu() for t in book]


def check(state: tuple[Tensor, ...], result: NearestCode, book: list[Tensor], decay: float, restart: float) -> None:
    """Asserts that assignments are nearest within float32 rounding, and compares all else with float64."""
    z, codes, count, total = (tensor.double() for tensor in state)
    books, size, dim = codes.shape
    rows = split(z, books, dim).flatten(1, 2)  # [K, B*P, D]
    distance = torch.cdist(rows, codes).square()
    index = result.indices.transpose(0, 1).reshape(books, -1)
    chosen = distance.gather(2, index[:, :, None])[:, :, 0]
    scale = rows.square().sum(2) + codes.square().sum(2).amax()
    assert (chosen - distance.amin(dim=2) <= 1e-6 * scale).all()
    closest = distance.topk(min(2, size), dim=2, largest=False)
    clear = (closest.values[:, :, -1] - closest.values[:, :, 0] > 1e-6 * scale) | (size == 1)
    assert torch.equal(index[clear], closest.indices[:, :, 0][clear])

    picked = codes.gather(1, index[:, :, None].expand(-1, -1, dim))
    assert torch.equal(split(result.quantized, books, dim).flatten(1, 2), picked.float())
    torch.testing.assert_close(result.commitment.double(), (rows - picked).square().mean(), rtol=2e-6, atol=0)
    uses = torch.zeros(books, size, dtype=torch.float64).scatter_add_(1, index, torch.ones_like(chosen))
    share = uses / index.shape[1]
    entropy = -torch.where(share > 0, share * (share + 1e-10).log(), 0.0).sum(1)
    torch.testing.assert_close(result.perplexity.double(), entropy.exp(), rtol=1e-5, atol=0)

    sums = torch.zeros_like(codes).scatter_add_(1, index[:, :, None].expand(-1, -1, dim), rows)
    count = decay * count + (1 - decay) * uses
    n = count.sum(1, keepdim=True)
    count = (count + 1e-5) / (n + size * 1e-5) * n
    total = decay * total + (1 - decay) * sums
    for k in range(books):
        dead = (count[k] < restart).nonzero()[:, 0]
        total[k, dead] = rows[k, torch.arange(len(dead)) % rows.shape[1]]
        count[k, dead] = 1
    near = {"rtol": 1e-5, "atol": 1e-6 * float(total.abs().max())}
    torch.testing.assert_close(book[1].double(), count, rtol=1e-5, atol=0)
    torch.testing.assert_close(book[2].double(), total, **near)
    torch.testing.assert_close(book[0].double(), book[2].double() / book[1].double()[:, :, None], rtol=1e-6, atol=0)


@on_each_backend(
    25,
    books=st.integers(1, 3),
    size=st.integers(1, 150),
    dim=st.integers(1, 40),
    positions=st.integers(1, 6),
    batch=st.integers(1, 40),
    restart=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 10_000),
)
def test_any_shape(
    backend: Backend, books: int, size: int, dim: int, positions: int, batch: int, restart: float, seed: int
) -> None:
    state = draw(books, size, dim, positions, batch, seed)
    check(state, *run(backend, state, decay=0.9, restart_below=restart), 0.9, restart)


def test_paper_shape(backend: Backend) -> None:
    state = draw(2, 64, 16, 4, 512, seed=0)
    check(state, *run(backend, state, decay=0.999), 0.999, 0.0)


def test_results_are_deterministic(backend: Backend) -> None:
    state = draw(2, 64, 16, 4, 512, seed=1)
    one, two = (run(backend, state, decay=0.9) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip([*one[0], *one[1]], [*two[0], *two[1]], strict=True))


@pytest.mark.usefixtures("threads")
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    state = draw(3, 70, 20, 3, 700, seed=2)
    results = []
    with running("cpp") as backend:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outputs, book = run(backend, state, decay=0.9)
            results.append([*outputs, *book])
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("isa", [0, 1, 2])
def test_every_instruction_set(isa: int) -> None:
    with instruction_set(isa):
        for shape in ((2, 64, 16, 4, 200), (1, 37, 5, 3, 9), (2, 130, 33, 1, 17)):
            state = draw(*shape, seed=isa)
            check(state, *run(Backend("cpp", torch.device("cpu")), state, decay=0.9), 0.9, 0.0)


def test_the_first_of_equally_near_codes_wins(backend: Backend) -> None:
    z = torch.ones(3, 8, device=backend.device)
    codes = torch.full((1, 40, 2), 2.0, device=backend.device)
    codes[:, 25:] = 0.0
    codes[:, [20, 30]] = 1.0
    assert (nearest_code(z, codes).indices == 20).all()


def test_gradients_pass_straight_through(backend: Backend) -> None:
    z, codes, *_ = (tensor.to(backend.device) for tensor in draw(2, 5, 3, 4, 4, seed=0))
    z.requires_grad_()
    result = nearest_code(z, codes)
    weight = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((result.quantized * weight).sum(), z, retain_graph=True)
    torch.testing.assert_close(gradient, weight, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(result.commitment * 3, z, retain_graph=True)
    torch.testing.assert_close(gradient, 6 * (z - result.quantized).detach() / z.numel())
    (both,) = torch.autograd.grad((result.quantized * weight).sum() + result.commitment * 3, z)
    torch.testing.assert_close(both, weight + gradient)


def test_bfloat16_is_computed_in_float32(backend: Backend) -> None:
    z, codes, *_ = (tensor.to(backend.device) for tensor in draw(2, 5, 3, 4, 4, seed=0))
    z = z.bfloat16().requires_grad_()
    result = nearest_code(z, codes)
    assert result.quantized.dtype == torch.float32
    assert torch.equal(result.indices, nearest_code(z.float(), codes).indices)
    (result.quantized.sum() + result.commitment).backward()
    assert z.grad is not None
    assert z.grad.dtype == torch.bfloat16


def test_without_ema_nothing_moves(backend: Backend) -> None:
    codes = torch.randn(1, 4, 2, device=backend.device)
    before = codes.clone()
    nearest_code(torch.randn(3, 4, device=backend.device), codes)
    assert torch.equal(codes, before)


def test_counts_that_start_at_zero(backend: Backend) -> None:
    """Without restarts, unused codes grow without bound, as in LAPO; with them, all codes start at latents."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(64, 16, generator=generator).to(backend.device)
    start = (torch.rand(1, 32, 4, generator=generator) * 2 - 1) * 5 / 32
    norms = {}
    for restart in (0.0, 1e-3):
        codes = start.to(backend.device, copy=True)
        count, total = torch.zeros(1, 32, device=backend.device), codes.clone()
        nearest_code(z, codes, count, total, decay=0.999, restart_below=restart)
        assert torch.isfinite(codes).all()
        norms[restart] = float(codes.norm(dim=2).max())
    assert norms[0.0] > 50
    assert norms[1e-3] < 10


def test_dead_codes_restart_at_latents(backend: Backend) -> None:
    z = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)).to(backend.device)
    codes = torch.full((1, 8, 4), 100.0, device=backend.device)
    codes[0, 0] = 0.0
    count, total = torch.ones(1, 8, device=backend.device), codes.clone()
    for _ in range(30):
        nearest_code(z, codes, count, total, decay=0.5, restart_below=0.05)
    used = nearest_code(z, codes).indices.unique()
    assert len(used) > 4
    assert torch.isfinite(codes).all()


def test_nan_gives_a_valid_index(backend: Backend) -> None:
    """A latent with NaN gets a code number within the codebook."""
    z, codes, *_ = (tensor.to(backend.device) for tensor in draw(2, 37, 3, 4, 20, seed=0))
    z[3] = torch.nan
    codes[:, ::2] = torch.nan
    result = nearest_code(z, codes)
    assert ((result.indices >= 0) & (result.indices < 37)).all()


META = torch.device("meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": torch.zeros(2, 4)}, r"codes: expected contiguous float32 \[K, M, D\], got torch.float32 \[2, 4\]"),
        ({"codes": torch.zeros(2, 4, 3).double()}, "codes: expected contiguous float32"),
        ({"codes": torch.zeros(2, 3, 4).mT}, "codes: expected contiguous float32"),
        ({"codes": torch.zeros(2, 4, 3, device=META)}, r"codes: expected on cpu as z, got \[2, 4, 3\] on meta"),
        ({"z": torch.zeros(3, 7)}, r"z: expected float \[B, 2 \* 3 \* P\], not empty, got torch.float32 \[3, 7\]"),
        ({"z": torch.zeros(0, 6)}, r"z: .* not empty, got torch.float32 \[0, 6\]"),
        ({"z": torch.zeros(3, 6, dtype=torch.int64)}, "z: expected float"),
        ({"decay": 1.5}, "decay: expected 0 to 1, got 1.5"),
        ({"restart_below": float("nan")}, "restart_below: expected >= 0, got nan"),
        ({"ema_count": torch.zeros(2, 4)}, "ema_count, ema_sum: expected both or neither"),
        (
            {"ema_count": torch.zeros(2, 5), "ema_sum": torch.zeros(2, 4, 3)},
            r"ema_count: expected contiguous float32 \[2, 4\], got torch.float32 \[2, 5\]",
        ),
        (
            {"ema_count": torch.zeros(2, 4), "ema_sum": torch.zeros(2, 4, 2)},
            r"ema_sum: expected contiguous float32 \[2, 4, 3\], got torch.float32 \[2, 4, 2\]",
        ),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"z": torch.zeros(3, 6), "codes": torch.zeros(2, 4, 3), "ema_count": None, "ema_sum": None, **change}
    with pytest.raises(ValueError, match=message):
        nearest_code(**arguments)
