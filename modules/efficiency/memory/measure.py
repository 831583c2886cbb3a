"""Real training steps on a base in few bits, and what each part of them takes."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from modules.backbones.recomputation import checkpoint_blocks
from modules.efficiency.memory.base import packed_model
from modules.efficiency.memory.shapes import Shape
from modules.efficiency.steps.backbones import chunked_losses, loss_of, plain_losses
from modules.efficiency.steps.batches import full_batches
from variants import attach
from variants.acceleration import accelerated
from variants.quantisation import bits_per_parameter
from variants.registry import resolve
from variants.sites.kinds.few_bits import numel, packed_maps, stored

OPTIMIZERS = ("adamw", "paged-adamw", "paged-adamw-8bit")
"""torch's AdamW in fp32; bitsandbytes', whose state moves to the host where the GPU is full; that in 8 bits."""
GB = 1e9


def optimizer_of(name: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """One of `OPTIMIZERS`, at a rate of 2e-4."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=2e-4)
    from bitsandbytes import optim

    kind = optim.PagedAdamW8bit if name.endswith("8bit") else optim.PagedAdamW32bit
    return kind(list(parameters), lr=2e-4)


def measure(
    shape: Shape,
    scheme: str,
    device: torch.device,
    optimizer: str = "adamw",
    tokens: int = 512,
    steps: int = 3,
    cap_gb: float | None = None,
    reference: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a few steps of one row; the memory of each part in GB (10⁹ bytes), and what a step took.

    Args:
        optimizer: one of `OPTIMIZERS`.
        tokens: of the row.
        steps: the first of them, in which memory is allocated, is not timed.
        reference: without acceleration.
        cap_gb: more than this the allocator does not give.

    Raises:
        torch.OutOfMemoryError: it is not enough.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gb * GB / total) if cap_gb else 1.0, device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = packed_model(shape.config, scheme, device, dtype)
    say(f"{shape.title}: {sum(map(numel, model.parameters())) / 1e9:.2f} billion parameters in {scheme}, "
        f"after {time.perf_counter() - began:.0f} s")  # fmt: skip
    parts = {"base": _bytes(_tensors(model))}
    record: dict[str, Any] = {
        "parameters": sum(map(numel, model.parameters())),
        "bits_per_parameter": bits_per_parameter(model),
        "build_peak": torch.cuda.max_memory_allocated(device) / GB if on_gpu else None,
    }
    handle = attach(model, resolve("lora")(**shape.method), head=[])
    parameters = list(handle.trained().values())
    parts["adapter"] = _bytes(parameters)
    checkpoint_blocks(handle, "on", on_gpu)
    stepper = optimizer_of(optimizer, parameters)
    (batch, *_) = full_batches(shape.config, 1, tokens, device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    losses, times = [], []
    for _ in range(steps):
        start = time.perf_counter()
        with nullcontext() if reference else accelerated(handle):
            loss = loss_of(model, batch, chunked_losses if on_gpu and not reference else plain_losses)
        loss.backward()
        parts["gradients"] = _bytes([p.grad for p in parameters if p.grad is not None])
        stepper.step()
        stepper.zero_grad()
        losses.append(loss.item())  # waits for the device
        times.append(time.perf_counter() - start)
    states = [value for state in stepper.state.values() for value in state.values() if isinstance(value, Tensor)]
    parts["optimizer"] = _bytes(states)
    if not all(map(torch.isfinite, map(torch.tensor, losses))):
        raise FloatingPointError(f"{shape.title}: a loss is not finite: {losses}")
    record |= {"trained": sum(p.numel() for p in parameters), "losses": losses}
    record["step_s"] = min(times[1:], default=times[0])
    if on_gpu:
        record["peak"] = torch.cuda.max_memory_allocated(device) / GB
        held = sum(parts.values()) - (parts["optimizer"] if optimizer != "adamw" else 0.0)
        parts["activations"] = max(0.0, record["peak"] - held)
    del model, handle, stepper, parameters, batch, loss, states
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    return record | {"parts": parts}


def _tensors(model: nn.Module) -> list[Tensor]:
    """All that a model holds, scales of packed weights included."""
    scales = (tensor for module in packed_maps(model) for tensor in itertools.islice(stored(module.weight), 1, None))
    return [*model.parameters(), *model.buffers(), *scales]  # a packed parameter holds its codes


def _bytes(tensors: Iterable[Tensor]) -> float:
    """In GB, what is shared once."""
    return sum({id(t): t.nbytes for t in tensors}.values()) / GB
