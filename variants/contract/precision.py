"""What a variant must hold to in other precisions than fp32."""

from __future__ import annotations

import torch

from variants.contract.base import property_of, require
from variants.contract.models import (
    Subject,
    adapter_parameters,
    distance,
    shift,
)


@property_of("bf16")
def low_precision(subject: Subject) -> None:
    """fp32 adapters over a bf16 base, and any base under autocast, compute in bf16 and near fp32."""
    reference, x = subject.trained(), subject.inputs()
    expected = reference.model(x).detach()
    for base, autocast in ((torch.bfloat16, False), (torch.bfloat16, True), (torch.float32, True)):
        where = f"{'bf16' if base == torch.bfloat16 else 'fp32'} base{' under autocast' if autocast else ''}"
        adapted = subject.attached(subject.model().to(base))
        adapted.load_state_dict(reference.state_dict())
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = adapted.model.train()(x.to(base))
        require(output.dtype == torch.bfloat16, f"{where}: the output is {output.dtype}")
        output.float().square().sum().backward()
        tensors = [*adapter_parameters(adapted).values()]
        require(
            all(t.dtype == torch.float32 for t in adapted.adapter.tensors().values() if t.requires_grad),
            f"{where}: an adapter tensor is not kept in fp32",
        )
        require(
            all(bool(t.grad.isfinite().all()) for t in tensors if t.grad is not None), f"{where}: infinite gradient"
        )
        adapted.model.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
            error = (adapted.model(x.to(base)).float() - expected).norm() / expected.norm()
        require(bool(error < 0.05), f"{where}: the output is {error:.1%} off")


@property_of("fp64")
@torch.no_grad()
def double_precision(subject: Subject) -> None:
    """Over an fp64 base everything is computed in fp64: steps far below fp32's resolution scale linearly."""
    if subject.variant.identity_at_start:
        model, x = subject.model().double(), subject.inputs().double()
        before = model(x)
        subject.attached(model)
        off = distance(model(x), before)
        rounded = 1e-12 * (1 + before.abs().max().item()) < off < 1e-5  # more is no matter of rounding: see identity
        require(not rounded, f"a fresh adapter changes the output by {off:.1e}: it starts in less than fp64")
    adapted, x = subject.trained(subject.model().double()), subject.inputs().double()
    before = adapted.model(x)
    require(before.dtype == torch.float64, f"the output is {before.dtype}")
    start, changes = {name: t.clone() for name, t in adapter_parameters(adapted).items()}, []
    for step in (1e-9, 2e-9):
        moved = x.clone()
        shift(moved, 99, step)
        for index, (name, tensor) in enumerate(adapter_parameters(adapted).items()):
            tensor.copy_(start[name])
            shift(tensor, index, step)
        changes.append(adapted.model(moved) - before)
    off = (changes[1] - 2 * changes[0]).norm() / changes[1].norm()
    require(bool(off < 1e-3), "something is computed in less than fp64")
