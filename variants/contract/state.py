"""What a variant's tensors must hold to: the base's, its own, merged, saved and loaded, copied, drawn anew."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import tempfile
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from variants.contract.watch.attributes import told_loose
from variants.contract.watch.draws import Draw, Draws
from variants.errors import VariantError
from variants.formats.native import load, save_adapter
from variants.outside.places import definition


@property_of("base")
def base_stays(subject: Subject) -> None:
    """Frozen base weights are never changed in place: at attach, in a pass or in a step."""
    plain, model = subject.model(), subject.model()
    adapted = subject.attached(model)
    name, found = adapted.active, dict(plain.named_parameters())
    adapted.deactivate()  # a first update that is off the base comes back
    off = _changed(found, model)
    remedy = "leave W as it is, and put the change into delta_weight() or forward()"
    also = "; subtract_initial = True takes a first update off it"
    require(not off, f"attaching changes {off} in place, which no adapter file holds: {remedy}{also}")
    adapted.switch(name)
    frozen = {key: p.detach().clone() for key, p in model.named_parameters() if key in found and not p.requires_grad}
    optimizer = adapted.optimizer(groups := [{"weight_decay": 0.0} | g for g in adapted.param_groups(1e-2)])
    optimizer, variant = optimizer or torch.optim.AdamW(groups), type(subject.variant)
    x = subject.inputs()
    target = target_outputs(subject, x)

    def untouched(what: str, function: Callable | None = None) -> None:
        if off := _changed(frozen, model):
            at = f"{place}: " if function and (place := definition(function)) else ""
            raise Broken(f"{at}{what} changes {off} in place, which is frozen and in no adapter file: {remedy}")

    for step in (1, 2, 3):
        loss = F.mse_loss(model.train()(x), target)
        untouched("a pass")
        penalty = adapted.penalty(step, 3)
        untouched("penalty", variant.penalty)
        (loss if penalty is None else loss + penalty).backward()
        untouched("a backward pass")
        adapted.before_step(step, 3)
        untouched("before_step", variant.before_step)
        optimizer.step()
        untouched("the optimizer", variant.optimizer)
        adapted.after_step(step, 3, optimizer)
        untouched("after_step", variant.after_step)
        optimizer.zero_grad()


def _changed(before: dict[str, Tensor], model: nn.Module) -> str:
    """The first of a model's parameters that is another now; "" where none is."""
    now = dict(model.named_parameters())
    return next((name for name, t in before.items() if name in now and not torch.equal(now[name], t)), "")


@property_of("buffers")
def tensors_are_registered(subject: Subject) -> None:
    """What a layer keeps in tensors are its parameters and buffers; a variant is configuration, and keeps none."""
    wrong = told_loose(subject.attached())
    require(not wrong, wrong)


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

    draws_of: dict[int, list[Draw]] = {}

    def start(seed: int, noise: int, **changes: str) -> dict[str, Tensor]:
        torch.manual_seed(noise)
        model = subject.model()
        first, second = model.base_model["layers"]
        second.load_state_dict(first.state_dict())  # sites of both blocks differ by their path alone
        with Draws() as draws:
            adapted = subject.attached(model, seed, **changes)
        draws_of[seed] = draws.drawn
        line = _line(next((draw for draw in draws.drawn if draw.seed == torch.initial_seed()), None))
        wrong = f"{line}torch.manual_seed seeds what the whole run draws: draw from rng, as generator=rng"
        require(torch.initial_seed() == noise, wrong)
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
    start(2, 3)
    if fixed := _fixed(subject, draws_of[1], draws_of[2]):
        raise Broken(
            f"{_line(fixed)}it draws from a generator with the seed {fixed.seed} whatever the run's seed is: draw from "
            "rng, as generator=rng (a seed that is an option may decide what stays frozen)"
        )


def _fixed(subject: Subject, one: list[Draw], other: list[Draw]) -> Draw | None:
    """The first draw of two runs that neither the run's seed decides nor an option, such as FourierFT's entry_seed."""
    alike = {index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a.state == b.state}
    options = [f.name for f in dataclasses.fields(subject.variant) if f.init] if alike else []
    for name in options:
        value = getattr(subject.variant, name)
        if type(value) is int:
            try:
                changed, model = dataclasses.replace(subject.variant, **{name: value + 1}), subject.model()
                with Draws() as draws:
                    dataclasses.replace(subject, variant=changed).attached(model)
            except (ValueError, NotApplicable):  # it refuses it
                continue
            alike -= {i for i, draw in enumerate(draws.drawn) if i < len(one) and draw.state != one[i].state}
    return one[min(alike)] if alike else None


def _line(draw: Draw | None) -> str:
    return f"{draw.place}: " if draw and draw.place else ""


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
