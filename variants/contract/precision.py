"""What a variant must hold to in other precisions than fp32."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.contract.base import property_of, require
from variants.contract.models import (
    CONV1D,
    PLAIN,
    NotApplicable,
    Subject,
    adapter_parameters,
    distance,
    shift,
)
from variants.errors import VariantError
from variants.quantisation import dequantise, quantise
from variants.sites.kinds.few_bits import is_packed


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


@property_of("nf4")
def few_bits(subject: Subject) -> None:
    """On a 4-bit base it computes and learns what it does on a dense one of the values that the codes stand for, and
    merging leaves the codes as they are."""
    if find_spec("bitsandbytes") is None:
        raise NotApplicable("bitsandbytes is not installed: pip install 'lora-variants[quant]'")
    for kind in (PLAIN, CONV1D):
        adapted = subject.attached(subject.model(kind))
        try:
            quantise(adapted, "nf4")
        except VariantError as error:
            require("trains" in str(error), f"it is refused on a 4-bit base: {error}")
            raise NotApplicable("it trains weights of the base itself, which few bits cannot hold") from error
        for index, tensor in enumerate(adapter_parameters(adapted).values()):
            shift(tensor, index)
        twin = copy.deepcopy(adapted)
        dequantise(twin.model)
        found, expected = (_learnt(handle.model, subject.inputs()) for handle in (adapted, twin))
        for name, tensor in expected.items():
            off = distance(found[name], tensor)
            require(off < 1e-5, f"on a 4-bit base ({kind}) {name} is off by {off:.1e} from the dequantised base")
        codes = _codes(adapted.model)
        if _merges(adapted) and _merges(twin):  # where it is refused the property merge says so
            off = distance(*(handle.model(subject.inputs()) for handle in (adapted, twin)))
            require(off < 1e-4, f"merged into a 4-bit base ({kind}) the output is off by {off:.1e} from a dense one")
        adapted.unmerge()
        same = all(torch.equal(own, before) for own, before in zip(_codes(adapted.model), codes, strict=True))
        require(same, f"unmerge() does not bring the codes back ({kind})")


def _merges(adapted: AdaptedModel) -> bool:
    try:
        adapted.merge()
    except VariantError:
        return False
    return True


def _learnt(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradient of everything that trains, by name."""
    output = model(x)
    output.square().sum().backward()
    gradients = {f"the gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"the output": output.detach()} | gradients


def _codes(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters() if is_packed(p)]
