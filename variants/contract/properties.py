"""What every variant must hold to: properties, each of which can fail. ``variants.check`` runs them."""

from __future__ import annotations

import copy
import math
import pickle
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor

from variants.adapters.adapted_model import Adapted
from variants.contract.models import (
    CONV1D,
    FUSED,
    SPLIT,
    NotApplicable,
    Subject,
    distance,
    no_layers,
    optimizer_steps,
    own,
    shift,
    target_outputs,
)
from variants.errors import VariantError, first_line
from variants.formats.native import load, save_adapter


class Broken(Exception):
    """The property does not hold; the message is the reason."""


def require(holds: bool, reason: str) -> None:
    if not holds:
        raise Broken(reason)


PROPERTIES: dict[str, Callable[[Subject], None]] = {}


def _property(name: str):
    def decorate(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
        PROPERTIES[name] = check
        return check

    return decorate


@_property("identity at start")
def identity(subject: Subject) -> None:
    """A fresh adapter leaves the model's outputs as they were, where the variant declares so."""
    if not subject.variant.identity_at_start:
        raise NotApplicable("it declares identity_at_start = False")
    model, x = subject.model(), subject.inputs()
    before = model(x)
    subject.attached(model)
    off = distance(model(x), before)
    require(off < 1e-5, f"a fresh adapter changes the output by {off:.1e}")


@_property("output moves")
@torch.no_grad()
def moves(subject: Subject) -> None:
    """Every trained tensor has a say in the output."""
    adapted, x = subject.trained(), subject.inputs()
    if not own(adapted):
        raise NotApplicable("it trains nothing but the head")
    before = adapted.model(x)
    for name, tensor in own(adapted).items():
        saved = tensor.clone()
        shift(tensor, 50)
        require(distance(adapted.model(x), before) > 1e-6, f"the output does not depend on {name}")
        tensor.copy_(saved)


@_property("gradients")
def gradients(subject: Subject) -> None:
    """Gradients reach all that the variant trains, and nothing else."""
    adapted = subject.trained()
    adapted.model.train()(subject.inputs()).square().sum().backward()
    trained = adapted.trained()
    for name, tensor in trained.items():
        require(tensor.grad is not None and bool(tensor.grad.any()), f"no gradient reaches {name}")
    ids = {id(tensor) for tensor in trained.values()}
    for name, tensor in adapted.model.named_parameters():
        require(id(tensor) in ids or not tensor.requires_grad, f"{name} gets a gradient and is not the variant's")


@_property("merge")
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
    require(off < 1e-4, f"the merged model is off by {off:.1e}")
    require(reported < 1e-4, f"a merged map is off by {reported:.1e}")
    adapted.unmerge()
    for name, tensor in model.state_dict().items():
        require(torch.equal(tensor, base[name]), f"unmerging does not restore {name}")
    require(torch.equal(model(x), before), "unmerging does not restore the output")


@_property("round trip")
def round_trip(subject: Subject) -> None:
    """What was trained, saved and loaded gives the same outputs bit for bit."""
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
    require(off <= allowed, f"after loading the output is off by {off:.1e}")
    require(torch.equal(outputs[2], outputs[1]), "after saving and loading twice the output is another")


@_property("bf16")
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
        tensors = [*own(adapted).values()]
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


@_property("fp64")
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
    start, changes = {name: t.clone() for name, t in own(adapted).items()}, []
    for step in (1e-9, 2e-9):
        moved = x.clone()
        shift(moved, 99, step)
        for index, (name, tensor) in enumerate(own(adapted).items()):
            tensor.copy_(start[name])
            shift(tensor, index, step)
        changes.append(adapted.model(moved) - before)
    off = (changes[1] - 2 * changes[0]).norm() / changes[1].norm()
    require(bool(off < 1e-3), "something is computed in less than fp64")


@_property("determinism")
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
        require(torch.equal(tensor, again[name]), f"{name} differs between two attachments with one seed")
    if hasattr(subject.variant, "layers"):
        for name, tensor in start(0, 1, layers="1").items():
            require(torch.equal(tensor, values[name]), f"{name} depends on which other sites there are")
    other, random = start(1, 1), []
    for name, tensor in values.items():
        twin = values.get(name.replace("layers.0", "layers.1"))
        if twin is not None and not torch.equal(tensor, twin):
            random.append(name)
    for name in random:
        require(not torch.equal(values[name], other[name]), f"{name} is the same under another seed")


@_property("copy")
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


@_property("compile")
def compiles(subject: Subject) -> None:
    """The model is one graph for torch.compile, and computes the same."""
    try:
        adapted = subject.trained(subject.model(depth=1))  # half the time
    except VariantError:  # it needs more blocks, or another one
        adapted = subject.trained()
    x = subject.inputs()
    model = adapted.model.train()
    torch._dynamo.reset()
    try:
        output = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        output.square().sum().backward()
    except Exception as error:
        raise Broken(f"torch.compile(fullgraph=True) refuses it: {first_line(error)}") from error
    finally:
        torch._dynamo.reset()
    grads = {name: t.grad.clone() for name, t in adapted.trained().items() if t.grad is not None}
    model.zero_grad()
    eager = [model(x), model(x)]
    if not torch.equal(*eager):
        return  # it draws random numbers while it trains: values cannot be compared
    require(distance(output, eager[0]) < 1e-4, "the compiled output is another")
    eager[0].square().sum().backward()
    for name, grad in grads.items():
        scale = 1 + grad.abs().max().item()
        require(
            distance(grad, adapted.trained()[name].grad) < 1e-4 * scale, f"compiled, the gradient of {name} is another"
        )


@_property("no host sync")
def no_host_sync(subject: Subject) -> None:
    """forward, backward and penalty never wait for a value: they run on tensors that have none."""
    adapted, x = subject.trained(), subject.inputs()
    adapted.model.train().to("meta")
    _step_without_values(adapted, x.to("meta"))
    if torch.cuda.is_available():
        adapted = subject.trained()
        adapted.model.train().to("cuda")
        x = x.to("cuda")
        _step_without_values(adapted, x)  # warm-up: libraries synchronise when they start
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            _step_without_values(adapted, x)
        finally:
            torch.cuda.set_sync_debug_mode(mode)


def _step_without_values(adapted: Adapted, x: Tensor) -> None:
    try:
        loss, penalty = adapted.model(x).square().sum(), adapted.penalty()
        (loss if penalty is None else loss + penalty).backward()
    except (RuntimeError, NotImplementedError) as error:
        raise Broken(f"a step needs values on the host: {first_line(error)}") from error


@_property("parameter count")
def parameter_count(subject: Subject) -> None:
    """count() is the number of values that an optimizer step changes."""
    adapted, x = subject.trained(), subject.inputs(32)
    tensors, head = dict(adapted.model.named_parameters()), set(adapted.head)
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    optimizer = torch.optim.Adam(adapted.param_groups(1e-2))
    adapted.model.train()(x).square().sum().backward()
    optimizer.step()
    changed = {"adapter": 0, "head": 0}
    for name, tensor in tensors.items():
        changed["head" if name in head else "adapter"] += int((tensor.detach() != before[name]).sum())
    count = adapted.count()
    for part, number in changed.items():
        require(number == count[part], f"count() says {count[part]} for the {part}, and a step changes {number}")


@_property("slice")
@torch.no_grad()
def slices(subject: Subject) -> None:
    """On slices of a fused map it computes what it computes on separate maps, and leaves the rest alone."""
    if any(hasattr(layer, "pre") for layer in subject.attached().layers):
        raise NotApplicable("it changes its input, which needs whole maps")
    split = subject.trained(subject.model(SPLIT), **subject.retargeted("c_attn.q,c_attn.v"))
    fused = subject.trained(subject.model(FUSED), **subject.retargeted("q,v"))
    x, width = subject.inputs(), subject.width
    plain = subject.model(FUSED).base_model["layers"][0].attn.c_attn(x)
    mapped = fused.model.base_model["layers"][0].attn.c_attn(x)
    require(
        torch.equal(mapped[..., width : 2 * width], plain[..., width : 2 * width]),
        "the slices q and v change k as well",
    )
    fused.load_state_dict(split.state_dict())
    off = distance(fused.model(x), split.model(x))
    require(off < 1e-4, f"on slices of a fused map the output differs by {off:.1e} from separate maps")


@_property("Conv1D")
@torch.no_grad()
def transposed(subject: Subject) -> None:
    """On GPT-2's transposed maps it computes what it computes on nn.Linear."""
    linear = subject.trained(subject.model(FUSED), **subject.retargeted("all-linear"))
    conv1d = subject.trained(subject.model(CONV1D), **subject.retargeted("all-linear"))
    conv1d.load_state_dict(linear.state_dict())
    x = subject.inputs()
    off = distance(conv1d.model(x), linear.model(x))
    require(off < 1e-4, f"on a transposed map the output differs by {off:.1e} from nn.Linear")


@_property("learns")
def learns(subject: Subject) -> None:
    """Training brings a loss down by a tenth, at one of three learning rates."""
    x, best = subject.inputs(32), math.inf
    target = target_outputs(subject, x)
    for lr in (1e-2, 1e-1, 1e-3):
        adapted = subject.attached()
        losses = optimizer_steps(adapted, x, target, 40, lr=lr, head_lr=0.0 if own(adapted) else lr)
        best = min(best, losses[-1] / losses[0])
        if best < 0.9:
            return
    raise Broken(f"after 40 steps the loss is at best {best:.2f} of what it was")


@_property("meta device")
def meta_device(subject: Subject) -> None:
    """It attaches to a model that has shapes and no values yet."""
    try:
        adapted = subject.attached(subject.model().to("meta"))
    except (RuntimeError, NotImplementedError) as error:
        raise Broken(f"it needs values to attach: {first_line(error)}") from error
    off = [n for n, t in [*adapted.model.named_parameters(), *adapted.model.named_buffers()] if not t.is_meta]
    require(not off, f"{off[0] if off else ''} is not on the model's device")
    require(adapted.count() == subject.attached().count(), "count() differs from that of a model with values")
