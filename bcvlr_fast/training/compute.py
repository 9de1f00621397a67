"""Device, precision, optimizers, and the settings of the host allocator."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from bcvlr_fast.config.run import RunSettings
from bcvlr_fast.nn.layers import ResidualBlock
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.training.muon import Muon

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Compute:
    """Where and how a run computes."""

    device: torch.device
    dtype: torch.dtype
    """Dtype of convolutions and matrix products: float32 or bfloat16. Weights stay float32."""
    memory_format: torch.memory_format = torch.channels_last
    compile: bool = False
    """Whether torch.compile compiles the networks."""
    muon: bool = False
    """Whether optimizers are Muon instead of AdamW."""

    @property
    def precision(self) -> str:
        """The name of `dtype`, such as float32."""
        return str(self.dtype).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def optimizer(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> torch.optim.Optimizer:
        """AdamW (fused) or Muon. On a GPU it can be captured, and its learning rate is a tensor."""
        on_gpu = self.device.type == "cuda"
        rate = torch.tensor(learning_rate, device=self.device) if on_gpu else learning_rate
        if self.muon:
            return Muon(parameters, rate, weight_decay, eps=eps, capturable=on_gpu)
        return torch.optim.AdamW(parameters, rate, weight_decay=weight_decay, eps=eps, fused=True, capturable=on_gpu)

    def network(self, module: nn.Module) -> nn.Module:
        """Moves a container of networks to the device, convolutions in the memory format, and compiles its children
        if asked to."""
        placed = module.to(self.device).to(memory_format=self.memory_format)  # type: ignore[call-overload]
        if self.compile:
            for network in placed.children():
                network.compile(dynamic=False)
        return placed


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate, in place where it is a tensor that a graph reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def choose_device(name: str) -> torch.device:
    """The torch device of auto, cpu, cuda or cuda:N. Raises UserError for another name or a device that is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device: expected auto, cpu, cuda or cuda:N, got '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: expected one of this machine's {torch.cuda.device_count()} CUDA devices, got {name}")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def choose_compute(
    device: torch.device, precision: str, compile_networks: bool = False, optimizer: str = "adamw"
) -> Compute:
    """How to compute on `device`; precision auto is bf16 where the hardware supports it natively."""
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        torch.cuda.set_device(device)
    else:
        _keep_freed_memory()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return Compute(device, dtype, compile=compile_networks, muon=optimizer == "muon")


def configured_compute(settings: RunSettings) -> Compute:
    """How a run with these settings learns. Raises UserError for a device that is missing."""
    return choose_compute(choose_device(settings.device), settings.precision, settings.compile, settings.optimizer)


def measured_tflops(compute: Compute) -> float:
    """TFLOP/s of residual blocks like the networks', forward and backward, measured in about 0.3 s."""
    channels, side, batch = (64, 64, 256) if compute.device.type == "cuda" else (32, 16, 128)
    net = compute.network(nn.Sequential(ResidualBlock(channels), ResidualBlock(channels)))
    x = torch.randn(batch, channels, side, side, dtype=compute.dtype, device=compute.device)
    x = x.to(memory_format=compute.memory_format)
    flop = 4 * 3 * 2 * batch * side * side * channels * channels * 9

    def once() -> float:
        start = time.perf_counter()
        with compute.autocast():
            out = net(x)
        out.float().square().mean().backward()
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return flop / min(once() for _ in range(5)) / 1e12


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _keep_freed_memory() -> None:
    """Makes glibc reuse large freed blocks instead of returning them, because page faults cost more than the math.

    On two cores it made labeling 2.5 times as fast, and complete updates 1.2 times.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        pass  # another C library: slower, not wrong
