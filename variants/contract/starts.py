"""Training may start from values that data gives."""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.contract.answers import overrides
from variants.contract.base import property_of, require
from variants.contract.models import NotApplicable, Subject, TinyText, distance
from variants.formats.native import load, save_adapter


@property_of("data start")
def starts_from_data(subject: Subject) -> None:
    """Values from data leave the base as it was, no gradients behind, and are those of the file."""
    if not overrides(subject, "init_from_data"):
        raise NotApplicable("it takes none from data")
    model = TinyText(subject.width).eval()
    batches = list(model.batches())
    adapted, found = subject.attached(model), []
    x = batches[0]["input_ids"]
    before, base = model(x).logits.detach(), _base(adapted)
    adapted.init_from_data(iter(batches))
    for name, tensor in _base(adapted).items():
        same = torch.equal(tensor, base[name])
        require(same, f"init_from_data changes {name} of the base, which no adapter file holds")
    left = [name for name, tensor in adapted.trained().items() if tensor.grad is not None]
    require(not left, f"init_from_data leaves a gradient at {left[0] if left else ''}: set it to None")
    trained = set(adapted.trained())
    loose = [n for n, p in model.named_parameters() if p.requires_grad and ".adapter." not in n and n not in trained]
    require(not loose, f"init_from_data leaves {loose[0] if loose else ''} to train: set requires_grad back")
    output = model.eval()(x).logits.detach()
    require(bool(output.isfinite().all()), "after init_from_data the output is not finite")
    off = distance(output, before)
    require(
        not subject.variant.identity_at_start or off < 1e-4,
        f"init_from_data changes the output by {off:.1e}: keep what it starts with apart, or identity_at_start = False",
    )
    again = subject.attached(TinyText(subject.width).eval())
    again.init_from_data(iter(batches))
    found.append(("drawn again with the same seed", again.model.eval()(x).logits))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        loaded = load(TinyText(subject.width).eval(), save_adapter(adapted, folder), strict=True)
        found.append(("loaded from its file", loaded.model(x).logits))
    for how, logits in found:
        off = distance(logits, output)
        require(off < 1e-5, f"{how}, the output is off by {off:.1e}: keep values from data in persistent buffers")


def _base(adapted: AdaptedModel) -> dict[str, Tensor]:
    """What is neither an adapter's nor trained in place, the first delta of a residual variant put back."""
    skip, found = set(adapted.adapter.in_place), adapted.state
    if adapted.variant.subtract_initial:
        adapted.deactivate()
    named = adapted.model.named_parameters()
    values = {n: p.detach().clone() for n, p in named if ".adapter." not in f".{n}" and n not in skip}
    adapted.restore(found)
    return values
