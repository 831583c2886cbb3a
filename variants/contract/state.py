"""What a variant's tensors must hold to: merged, saved and loaded, copied, drawn anew."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor

from variants.adapters.starting import start_from
from variants.contract.base import Broken, property_of, require
from variants.contract.models import (
    NotApplicable,
    Subject,
    distance,
    no_layers,
    optimizer_steps,
    shift,
    target_outputs,
)
from variants.errors import VariantError
from variants.formats.native import load, save_adapter


@property_of("merge")
@torch.no_grad()
def merge(subject: Subject) -> None:
    """Merged weights compute what base and adapter compute; unmerging restores every bit."""
    if no_layers(subject):
        raise NotApplicable("it has no layers to merge")
    adapted, x = subject.trained(), subject.inputs()
    model, before = adapted.model, adapted.model(x)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if not subject.variant.mergeable:
        try:
            adapted.merge()
        except VariantError:
            raise NotApplicable("it declares mergeable = False, and merge() says so") from None
        raise Broken("it declares mergeable = False and merges")
    reported = adapted.merge()
    off = distance(model(x), before)
    remedy = "merged() or delta_weight() must give what forward() computes, or mergeable = False"
    require(off < 1e-4, f"the merged model is off by {off:.1e}: {remedy}")
    require(reported < 1e-4, f"a merged map is off by {reported:.1e}: {remedy}")
    adapted.unmerge()
    for name, tensor in model.state_dict().items():
        require(torch.equal(tensor, base[name]), f"unmerging does not restore {name}")
    require(torch.equal(model(x), before), "unmerging does not restore the output")


@property_of("round trip")
def round_trip(subject: Subject) -> None:
    """What was trained, saved and loaded gives the same outputs bit for bit, also to a run that starts from it."""
    x = subject.inputs()
    adapted = subject.trained()
    optimizer_steps(adapted, x, target_outputs(subject, x), 3, lr=1e-2)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        loaded = load(subject.model(), save_adapter(adapted, f"{folder}/1"), strict=True)
        again = load(subject.model(), save_adapter(loaded, f"{folder}/2"), strict=True)
        outputs = [a.model(x) for a in (adapted, loaded, again)]
    found = loaded.state_dict()
    whole = all(tensor.shape == found[name].shape for name, tensor in adapted.state_dict().items())
    off = distance(outputs[1], outputs[0])
    allowed = 0 if whole else 1e-5  # a file without pruned rows leaves zeros out of the sums
    require(off <= allowed, f"after loading the output is off by {off:.1e}: keep state in persistent buffers")
    require(torch.equal(outputs[2], outputs[1]), "after saving and loading twice the output is another")
    before, after = subject.trained(), subject.attached()
    start_from(after, {k: t.clone() for k, t in before.state_dict(trimmed=True).items()}, "another run")
    with torch.no_grad():
        off = distance(after.model(x), before.model(x))
    require(off < 1e-5, f"started from another run, the output is off by {off:.1e}: keep state in persistent buffers")


@property_of("determinism")
def determinism(subject: Subject) -> None:
    """Initial values depend on seed, path and base weights alone: not on the global RNG, the order or other sites."""
    if no_layers(subject):
        raise NotApplicable("it draws no initial values")

    def start(seed: int, noise: int, **changes: str) -> dict[str, Tensor]:
        torch.manual_seed(noise)
        model = subject.model()
        first, second = model.base_model["layers"]
        second.load_state_dict(first.state_dict())  # sites of both blocks differ by their path alone
        adapted = subject.attached(model, seed, **changes)
        tensors = {f"{p}.{k}": b for p, layer in adapted.adapter.layers.items() for k, b in layer.named_buffers()}
        return tensors | {k: t.detach() for k, t in adapted.adapter.tensors().items()}

    values = start(0, 1)
    again = start(0, 2)
    for name, tensor in values.items():
        same = torch.equal(tensor, again[name])
        require(same, f"{name} differs between two attachments with one seed: draw it from rng, as generator=rng")
    for name, tensor in _of_second_block(subject, start).items():
        # a tensor that layers share goes by the name of the first of them
        same = name not in values or torch.equal(tensor, values[name])
        require(same, f"{name} depends on which other sites there are: draw it from rng and the site alone")
    other = start(1, 1)
    for name, tensor in values.items():
        twin = values.get(name.replace("layers.0", "layers.1"))
        drawn = twin is not None and twin.shape == tensor.shape and not torch.equal(tensor, twin)
        differs = not drawn or not torch.equal(tensor, other[name])
        require(differs, f"{name} is the same under another seed: draw it from rng")


def _of_second_block(subject: Subject, start: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    """Initial values where the second block alone is adapted; none where the variant cannot be so."""
    if not hasattr(subject.variant, "layers"):
        return {}
    try:
        return start(0, 1, layers="1")
    except NotApplicable:
        return {}


@property_of("copy")
@torch.no_grad()
def copies(subject: Subject) -> None:
    """deepcopy and pickle give models of their own with the same outputs."""
    adapted, x = subject.trained(), subject.inputs()
    before = adapted.model(x)
    try:
        others = {"deepcopy": copy.deepcopy(adapted.model), "pickle": pickle.loads(pickle.dumps(adapted.model))}
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Broken(f"the model cannot be copied: {error}") from error
    for tensor in adapted.trained().values():
        shift(tensor, 60)
    for how, model in others.items():
        require(torch.equal(model(x), before), f"the output of the {how} follows the original or is another")
