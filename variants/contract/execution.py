"""What a variant must hold to however a pass is carried out: compiled, without values, accelerated."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel, attach
from variants.adapters.stacked_layer import why_not
from variants.contract.base import Broken, property_of, require
from variants.contract.models import (
    NotApplicable,
    Subject,
    distance,
    optimizer_steps,
    target_outputs,
)
from variants.contract.watch.attributes import told_loose
from variants.errors import VariantError, first_line
from variants.layer import AdapterLayer
from variants.outside.places import located, place


@property_of("compile")
def compiles(subject: Subject) -> None:
    """The model is one graph for torch.compile, and computes the same."""
    try:
        adapted = subject.trained(subject.model(depth=1))  # half the time
    except (NotApplicable, VariantError):  # it needs more blocks, or another one
        adapted = subject.trained()
    x = subject.inputs()
    model = adapted.model.train()
    torch.compiler.reset()
    try:
        output = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        output.square().sum().backward()
    except Exception as error:
        reason = f"{place(error)}torch.compile(fullgraph=True) refuses it: {first_line(error)}"
        raise Broken(f"{reason}; forward is tensor code, without branches on values") from error
    finally:
        torch.compiler.reset()
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


@property_of("no host sync")
def no_host_sync(subject: Subject) -> None:
    """forward, backward and penalty never wait for a value: they run on tensors that have none."""
    adapted, x = subject.trained(), subject.inputs()
    adapted.model.train().to("meta")
    _step_without_values(adapted, x.to("meta"), told_loose(adapted))
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


def _step_without_values(adapted: AdaptedModel, x: Tensor, loose: str = "") -> None:
    try:
        loss, penalty = adapted.model(x).square().sum(), adapted.penalty(1, 1)
        (loss if penalty is None else loss + penalty).backward()
    except (RuntimeError, NotImplementedError) as error:
        if loose:
            raise Broken(loose) from error
        reason = f"{place(error)}a step needs values on the host: {first_line(error)}"
        raise Broken(f"{reason}; leave out .item(), .cpu() and branches on values") from error


@property_of("meta device")
def meta_device(subject: Subject) -> None:
    """It attaches to a model that has shapes and no values yet."""
    try:
        adapted = attach(subject.model().to("meta"), subject.variant)
    except (RuntimeError, NotImplementedError, VariantError) as error:
        raise Broken(f"it needs values to attach ({located(error)}): a budget counts it on shapes alone") from error
    off = [n for n, t in [*adapted.model.named_parameters(), *adapted.model.named_buffers()] if not t.is_meta]
    require(not off, f"{off[0] if off else ''} is not on the model's device")
    require(adapted.count() == subject.attached().count(), "count() differs from that of a model with values")


@property_of("accelerated")
def accelerated_is_the_reference(subject: Subject) -> None:
    """Accelerated passes give the outputs, gradients and training steps of plain ones, up to rounding."""
    if find_spec("variants.acceleration") is None:
        raise NotApplicable("there is no variants.acceleration")
    from variants.acceleration.basics.policy import for_graph, large_from

    places = {"": nullcontext, " as in a CUDA graph": for_graph, " as large batches are": partial(large_from, 0)}
    plain = _pass(subject, torch.float32)
    for where, entered in places.items():
        for name, (fast,) in _beside(plain, _pass(subject, torch.float32, entered)).items():
            off = relative(fast, plain[name])
            require(off < 2e-6, f"accelerated{where}, {name} is off by {off:.1e} of the plain pass's")
    _compare_training(subject)
    plain, exact = _pass(subject, torch.bfloat16), _pass(subject, torch.bfloat16, exact=True)
    for where, entered in places.items():
        found = _beside(plain, plain, _pass(subject, torch.bfloat16, entered), exact)
        output, *gradients = found.values()
        # all gradients as one: how a short vector's own is rounded is left to chance
        together = [torch.cat([each.flatten().float() for each in kind]) for kind in zip(*gradients, strict=True)]
        for name, (one, fast, fp32) in {"the output": output, "the gradient": together}.items():
            off, allowed = relative(fast, fp32), 2 * relative(one, fp32) + 2e-3
            if not math.isfinite(allowed):
                raise NotApplicable("over a bf16 base the plain pass is infinite: there is nothing to compare with")
            require(off < allowed, f"accelerated{where} over a bf16 base, {name} is off by {off:.1e} of fp32's")


def _pass(
    subject: Subject,
    dtype: torch.dtype,
    entered: Callable[[], AbstractContextManager] | None = None,
    exact: bool = False,
) -> dict[str, Tensor]:
    """The output of a pass, and each gradient.

    Args:
        dtype: of the base weights.
        entered: where an accelerated pass is; None: a plain one.
        exact: in fp32, on the base weights that are rounded to ``dtype``.
    """
    from variants.acceleration import accelerated

    values, x, model = subject.trained().state_dict(), subject.inputs().to(dtype), subject.model().to(dtype)
    adapted = subject.attached(model.float() if exact else model)
    adapted.load_state_dict(values)
    with ExitStack() as contexts:
        if entered is not None:
            contexts.enter_context(entered())
            contexts.enter_context(accelerated(adapted))
        try:
            output = adapted.model(x.float() if exact else x)
        except Exception as error:
            if entered is None and not exact:
                raise NotApplicable(f"the plain pass over a {dtype} base fails: {first_line(error)}") from error
            raise
    output.float().square().sum().backward()
    gradients = {f"the gradient of {n}": t.grad for n, t in adapted.trained().items() if t.grad is not None}
    return {"the output": output.detach()} | gradients


def _beside(plain: dict[str, Tensor], *passes: dict[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """What is to be compared with a plain pass, by its names."""
    require(all(plain.keys() == each.keys() for each in passes), "an accelerated pass gives other tensors a gradient")
    return {name: tuple(each[name] for each in passes) for name in plain}


def _compare_training(subject: Subject) -> None:
    from variants.acceleration import accelerated, accelerated_updates

    x, losses, values = subject.inputs(32), [], copy.deepcopy(subject.trained().state_dict())
    target = target_outputs(subject, x)
    rate = next(lr for lr in (1e-2, 1e-4, 1e-6, 1e-8) if lr == 1e-8 or _is_calm(subject, values, x, target, lr))
    for fast in (False, True):
        adapted = subject.trained()
        adapted.load_state_dict(values)
        optimizer, own_losses = torch.optim.SGD(adapted.param_groups(rate)), []
        for step in range(1, 11):
            with accelerated(adapted) if fast else nullcontext():
                loss = F.mse_loss(adapted.model(x), target)
            with accelerated_updates(adapted) if fast else nullcontext():
                penalty = adapted.penalty(step, 10)
                (loss if penalty is None else loss + penalty).backward()
                optimizer.step()
                adapted.after_step(step, 10)
            optimizer.zero_grad()
            own_losses.append(loss.item())
        losses.append(torch.tensor(own_losses))
    off = relative(losses[1], losses[0])
    require(off < 1e-5, f"ten accelerated training steps are off by {off:.1e} of the plain ones' losses")


def _is_calm(subject: Subject, values: dict[str, Tensor], x: Tensor, target: Tensor, lr: float) -> bool:
    """Whether ten plain steps do not blow the loss up: rounding would grow with it."""
    adapted = subject.trained()
    adapted.load_state_dict(values)
    losses = optimizer_steps(adapted, x, target, 10, torch.optim.SGD, lr=lr)
    return max(losses) <= 2 * losses[0]


def relative(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖."""
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)).item()


def missing_fast_paths(subject: Subject) -> list[str]:
    """A line for each fast path that the variant does not take; none where it takes all of them."""
    found, layers = [], list(subject.attached().layers)
    if reason := why_not(subject.variant):
        found.append(f"stacked seeds (--stack_seeds): {reason}")
    own = [layer for layer in layers if not hasattr(layer, "lengthen")]
    if slow := next((layer for layer in own if not _has_fast_pass(layer)), None):
        plain = f"passes of {type(slow).__name__}: {_plain(slow)}"
        found.append(f"{plain}; an update of low rank that low_rank() declares has fast ones")
    if mixing := next((layer for layer in layers if not layer.per_token), None):
        why = "reads the mask" if mixing.reads_mask else "does not say per_token = True"
        why = why if mixing in own else "lengthens the sequence"
        found.append(f"sequence packing: {type(mixing).__name__} {why}, so that batches are padded")
    return found


def _has_fast_pass(layer: AdapterLayer) -> bool:
    if find_spec("variants.acceleration") is None:
        return True
    from variants.acceleration import methods  # noqa: F401  (registers them)
    from variants.acceleration.basics.fast_paths import FORWARDS

    return layer.adds_low_rank or type(layer).forward in FORWARDS


def _plain(layer: AdapterLayer) -> str:
    """What is computed in plain PyTorch."""
    if type(layer).forward is AdapterLayer.forward:
        return "its delta_weight is computed in plain PyTorch, and anew in each pass"
    return "its forward is computed as it is written, in plain PyTorch"
