"""How the model of each implementation is built: ours, full fine-tuning and the limit.

In bf16 all trained parameters are fp32, over frozen weights in bf16: ours and the limit without autocast, full
fine-tuning and PEFT under it. PEFT is measured a second time with its adapters in bf16 and without autocast
(``peft-bf16``), where it is faster, so that it is compared at its best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.acceleration.clipping import clip_each
from modules.acceleration.packed_encoder import pack
from modules.efficiency.steps import decoders, unets
from modules.efficiency.steps.backbones import Batch, chunked_losses, loss_of, plain_losses
from modules.efficiency.steps.grid import (
    DENSE,
    LIMIT_PACKED,
    LIMIT_TOGETHER,
    REFERENCE,
    STACKED,
    TOGETHER,
    WITH_LIGER,
    Implementation,
)
from modules.efficiency.steps.trainee import START, TOTAL, Trainee
from variants import attach
from variants.acceleration import accelerated, accelerated_updates
from variants.parameter_budget import fit
from variants.quantisation import quantise
from variants.registry import resolve
from variants.variant import BaseVariant


def build_trainee(
    implementation: Implementation,
    master: nn.Module,
    options: dict[str, dict[str, Any]],
    bf16: bool,
    target: str = "attn-qv",
    checkpointing: bool = False,
    scheme: str = "",
    budget: int = 0,
) -> Trainee:
    """The model of an implementation, ready to train.

    Args:
        master: the backbone, in fp32 unless it is a decoder; a copy of it trains.
        options: hyperparameters of each method.
        target: of our adapters: ``attn-qv``, PEFT's default, ``attn`` or ``all-linear``.
        checkpointing: blocks are computed again in the backward pass.
        scheme: how the frozen base is kept in few bits, in all but `DENSE`.
        budget: of our adapter's parameters, where it has a size (`variants.parameter_budget`); 0: as ``options`` say.

    Raises:
        ImportError: PEFT is not installed.
    """
    model, library, method = copy.deepcopy(master), implementation.library, implementation.method
    if checkpointing:
        checkpoint_blocks(model)
    decoders.restore()
    if library == "limit":
        return _limit(model, bf16, scheme)
    if library == LIMIT_PACKED:
        limit = _limit(model, bf16)
        limit.kind = Acceleration.of(limit.handle).kind
        return limit
    if library == LIMIT_TOGETHER:
        limit = _limit(model, bf16)
        feed = limit.feed
        limit.feed = lambda batch: feed(_repeated(batch, STACKED))
        return limit
    if library == "full":
        model.requires_grad_(True)
        if decoders.has_kernels(model):
            decoders.patch(model, losses=True)
            model.float()
            return Trainee(lambda batch: decoders.own_loss(model, batch), list(model.parameters()), autocast=bf16)
        return Trainee(lambda batch: loss_of(model, batch), list(model.parameters()), autocast=bf16)
    if library == TOGETHER:
        return stacked(model, method, options[method], bf16, target)
    if library in ("ours", DENSE, REFERENCE):
        kept = "" if library == DENSE else scheme
        return ours(model, method, options[method], bf16, target, library == REFERENCE, kept, budget)
    from modules.efficiency.steps.peft_implementation import theirs

    if library in WITH_LIGER:
        decoders.patch(model, losses=True)
    low = library in ("peft-bf16", "peft-liger-bf16")
    return theirs(model, method, options[method], bf16, low, target, library in WITH_LIGER, scheme)


def checkpoint_blocks(model: nn.Module) -> None:
    """Have blocks computed again in the backward pass, without the random numbers' state: nothing is dropped here."""
    options = {"use_reentrant": False, "preserve_rng_state": False}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


class Acceleration(NamedTuple):
    """How an adapted model or a stack is accelerated.

    Attributes:
        kind: of the batches that it reads: a key of `batches.PACKED`, or "" where it needs padding.
        passes: a context for each forward pass.
        updates: a context for penalties and for the method's own step.
    """

    kind: str = ""
    passes: Callable[[], AbstractContextManager] = nullcontext
    updates: Callable[[], AbstractContextManager] = nullcontext

    @classmethod
    def of(cls, handle: Any, kind: str = "packed") -> Acceleration:
        """As the commands train it (`modules.training.acceleration`). Nothing else in this room installs acceleration.

        Args:
            kind: of packed batches, where the model can do without padding.
        """
        packing = pack(handle)
        passes = partial(accelerated, handle, exclude=packing.excluded if packing else ())
        return cls(kind if packing else "", passes, partial(accelerated_updates, handle))


def ours(
    model: nn.Module,
    method: str,
    options: dict[str, Any],
    bf16: bool,
    target: str = "attn-qv",
    reference: bool = False,
    scheme: str = "",
    budget: int = 0,
) -> Trainee:
    """This project's adapter, accelerated as the commands train it; classifiers read batches without padding.

    Args:
        reference: without acceleration.
        scheme: how the frozen base is kept in few bits.
        budget: of the adapter's parameters, where it has a size; 0: as ``options`` say.
    """
    if bf16:
        _lower(model)
    kind = resolve(method)
    variant = kind(**options, **({"target": target} if "target" in kind.__dataclass_fields__ else {}))
    if budget and variant.size:
        variant, _ = fit(copy.deepcopy(model).to("meta"), variant, budget)
    adapted = attach(model, variant, seed=0)
    if scheme:
        quantise(adapted, scheme)
    acceleration = Acceleration() if reference else Acceleration.of(adapted)

    def penalty() -> Tensor | None:
        with acceleration.updates():
            return adapted.penalty(START, TOTAL)

    def before(step: int) -> None:
        with acceleration.updates():
            adapted.before_step(START + step, TOTAL)

    def after(step: int) -> None:
        with acceleration.updates():
            adapted.after_step(START + step, TOTAL)

    def overridden(hook: str) -> bool:
        return getattr(kind, hook) is not getattr(BaseVariant, hook)

    fused = not reference and decoders.has_kernels(model) and bf16
    return Trainee(
        _loss_in(acceleration.passes, adapted.model, chunked_losses if fused else plain_losses),
        list(adapted.trained().values()),
        extra=penalty if overridden("penalty") else None,
        before=before if overridden("before_step") else None,
        after=after if overridden("after_step") else None,
        handle=adapted,
        kind=acceleration.kind,
    )


def stacked(
    model: nn.Module,
    method: str,
    options: dict[str, Any],
    bf16: bool,
    target: str = "attn-qv",
    size: int = STACKED,
) -> Trainee:
    """``size`` seeds of this project's adapter in the same step; each has a copy of the batch."""
    from variants.adapters.stack import Stack

    if bf16:
        _lower(model)
    names = [str(seed) for seed in range(size)]
    adapted = attach(model, resolve(method)(**options, target=target), seed=0, name="0")
    for name in names[1:]:
        adapted.add(name, resolve(method)(**options, target=target), int(name))
    stack = Stack(adapted, names)
    acceleration = Acceleration.of(stack, "each")
    loss = _loss_in(acceleration.passes, stack.model)
    return Trainee(
        lambda batch: size * loss(batch),  # the sum of the seeds' mean losses
        list(stack.trained().values()),
        feed=lambda batch: _repeated(batch, size),
        clip=clip_each,
        handle=stack,
        kind=acceleration.kind,
    )


def _repeated(batch: Batch, times: int) -> Batch:
    return {name: torch.cat([rows] * times) for name, rows in batch.items()}


def _loss_in(
    context: Callable[[], AbstractContextManager], model: nn.Module, losses_of: Callable[..., Tensor] = plain_losses
) -> Callable[[Batch], Tensor]:
    """The loss of a model, each pass within a new context."""

    def core(batch: Batch) -> Tensor:
        with context():
            return loss_of(model, batch, losses_of)

    return core


def _limit(model: nn.Module, bf16: bool, scheme: str = "") -> Trainee:
    """The frozen model, with gradients of its activations and of the task head alone; of a decoder with Liger's
    kernels."""
    if bf16:
        _lower(model)
    fused = decoders.has_kernels(model) and bf16
    if fused:
        decoders.patch(model, losses=False)
    losses_of = chunked_losses if fused else plain_losses
    adapted = attach(model, resolve("head")())
    if scheme:
        quantise(adapted, scheme)
    trained = list(adapted.trained().values())
    if isinstance(getattr(model, "conv_in", None), nn.Conv2d):
        return Trainee(lambda batch: loss_of(model, batch), trained, feed=unets.with_gradients, handle=adapted)
    embed = model.get_input_embeddings()

    def feed(batch: Batch) -> Batch:
        """Embeddings that require a gradient, so that the backward pass reaches the first block."""
        embeddings = embed(batch["input_ids"]).detach().requires_grad_()
        return {k: v for k, v in batch.items() if k != "input_ids"} | {"inputs_embeds": embeddings}

    return Trainee(lambda batch: loss_of(model, batch, losses_of), trained, feed=feed, handle=adapted)


def _lower(model: nn.Module) -> None:
    from modules.acceleration.frozen_precision import lower_frozen

    lower_frozen(model, torch.bfloat16)
