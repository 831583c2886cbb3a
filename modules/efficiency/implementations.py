"""The ways of taking one training step, and how each model is built: ours, full fine-tuning and the limit.

In bf16 what trains is fp32 everywhere, over frozen weights in bf16: ours and the limit without autocast, full
fine-tuning and PEFT under it. PEFT is measured a second time with its adapters in bf16 and no autocast (``peft-bf16``),
where it is faster, so that it is compared at its best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from modules.acceleration.clipping import clip_each
from modules.acceleration.packed_encoder import Packing, pack
from modules.efficiency.shapes import Batch, loss_of
from modules.efficiency.trainee import START, TOTAL, Trainee
from variants import attach
from variants.acceleration import accelerated, accelerated_updates
from variants.registry import resolve

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 8, "alpha": 8.0},
    "dora": {"r": 8, "alpha": 8.0},
    "vera": {"r": 1024},
    "adalora": {"init_r": 12, "target_r": 8, "alpha": 16.0, "tinit": 10.0, "tfinal": 1000.0},
}
"""Hyperparameters of each method, the same in every library; on q and v."""
STACKED = 5
TOGETHER = f"ours-x{STACKED}"
"""Five seeds of LoRA stacked in one step, each on a batch of its own."""
LIMIT_TOGETHER = f"limit-x{STACKED}"
"""The limit on as many rows as the stacked seeds have."""
LIMIT_PACKED = "limit-packed"
"""The limit on batches without padding, such as ours trains on: what is left between the two is the adapter's."""
LIBRARIES = ("limit", LIMIT_PACKED, LIMIT_TOGETHER, "full", "ours", TOGETHER, "peft", "peft-bf16")
WITHOUT_METHOD = ("limit", LIMIT_PACKED, LIMIT_TOGETHER, "full")
MODES = ("eager", "compiled", "graphs", "compiled+graphs", "trained")
"""``graphs``: the whole step, optimizer included, as one CUDA graph for each shape; ``trained``: as this project's
command trains (`modules.acceleration.cuda_graphs`)."""


@dataclass(frozen=True)
class Way:
    """One manner of taking the step."""

    library: str
    method: str
    mode: str

    @property
    def name(self) -> str:
        """Such as ``ours lora graphs`` or ``limit eager``."""
        return " ".join(part for part in (self.library, self.method, self.mode) if part)


def grid(
    methods: tuple[str, ...],
    modes: tuple[str, ...],
    patterns: tuple[str, ...] = (),
    bf16: bool = True,
    stacked: bool = True,
    packed: bool = True,
) -> list[Way]:
    """Every way of these methods in these modes, PEFT's last: a capture that fails may disturb what follows.

    Args:
        patterns: globs over names (``ours lora *``); empty: all.
        bf16: whether the run is in bf16, where PEFT has two precisions.
        stacked: seeds together as well.
        packed: the limit without padding as well, where the backbone can do without.
    """
    ways = []
    for library in LIBRARIES:
        if library == "peft-bf16" and not bf16 or library == LIMIT_PACKED and not packed:
            continue
        for method in methods if library not in WITHOUT_METHOD else ("",):
            for mode in modes:
                if mode == "trained" and library not in ("ours", TOGETHER):
                    continue
                together = library in (TOGETHER, LIMIT_TOGETHER)
                if together and not (stacked and method in ("lora", "") and "compiled" not in mode):
                    continue
                if mode.startswith("compiled") and (method == "adalora" or library in ("peft", LIMIT_PACKED)):
                    continue  # AdaLoRA breaks its graph; PEFT's faster precision is compiled; packed is never compiled
                ways.append(Way(library, method, mode))
    ways.sort(key=lambda way: way.method == "adalora" and way.library.startswith("peft"))
    return [way for way in ways if not patterns or any(fnmatchcase(way.name, f"{p}*") for p in patterns)]


def make(
    way: Way, master: nn.Module, options: dict[str, dict[str, Any]], bf16: bool, target: str = "attn-qv"
) -> Trainee:
    """A trainee on a copy of the master.

    Args:
        master: the backbone in fp32; its copies train.
        options: hyperparameters of each method.
        target: of our adapters; PEFT adapts what it does by default.

    Raises:
        ImportError: PEFT is not installed.
    """
    model = copy.deepcopy(master)
    if way.library == "limit":
        return _limit(model, bf16)
    if way.library == LIMIT_PACKED:
        limit = _limit(model, bf16)
        if pack(limit.handle):
            limit.kind = "packed"
        return limit
    if way.library == LIMIT_TOGETHER:
        limit = _limit(model, bf16)
        own = limit.feed
        limit.feed = lambda batch: own(_repeated(batch, STACKED))
        return limit
    if way.library == "full":
        model.requires_grad_(True)
        return Trainee(lambda batch: loss_of(model, batch), list(model.parameters()), autocast=bf16)
    if way.library == TOGETHER:
        return stacked(model, way.method, options[way.method], bf16, target)
    if way.library == "ours":
        return ours(model, way.method, options[way.method], bf16, target)
    from modules.efficiency.peft_implementation import theirs

    return theirs(model, way.method, options[way.method], bf16, low=way.library == "peft-bf16")


def ours(model: nn.Module, method: str, options: dict[str, Any], bf16: bool, target: str = "attn-qv") -> Trainee:
    """This project's adapter, on batches without padding where the model is a classifier, as the command trains."""
    if bf16:
        _lower(model)
    adapted = attach(model, resolve(method)(**options, target=target), seed=0)
    has_step = method == "adalora"
    packing = pack(adapted)

    def penalty() -> Tensor | None:
        with accelerated_updates(adapted):
            return adapted.penalty()

    def after(step: int) -> None:
        with accelerated_updates(adapted):
            adapted.after_step(START + step, TOTAL)

    return Trainee(
        _as_trained(adapted, packing),
        list(adapted.trained().values()),
        extra=penalty if has_step else None,
        after=after if has_step else None,
        handle=adapted,
        kind="packed" if packing else "",
    )


def stacked(
    model: nn.Module,
    method: str,
    options: dict[str, Any],
    bf16: bool,
    target: str = "attn-qv",
    size: int = STACKED,
) -> Trainee:
    """``size`` seeds of this project's adapter at once; a batch is repeated for each of them."""
    from variants.adapters.stack import Stack

    if bf16:
        _lower(model)
    names = [str(seed) for seed in range(size)]
    adapted = attach(model, resolve(method)(**options, target=target), seed=0, name="0")
    for name in names[1:]:
        adapted.add(name, resolve(method)(**options, target=target), int(name))
    stack = Stack(adapted, names)
    packing = pack(stack)
    loss = _as_trained(stack, packing)
    return Trainee(
        lambda batch: size * loss(batch),  # the sum of the seeds' mean losses
        list(stack.trained().values()),
        feed=lambda batch: _repeated(batch, size),
        clip=clip_each,
        handle=stack,
        kind="each" if packing else "",
    )


def _repeated(batch: Batch, times: int) -> Batch:
    return {name: torch.cat([rows] * times) for name, rows in batch.items()}


def _as_trained(handle: Any, packing: Packing | None) -> Callable[[Batch], Tensor]:
    """The loss of an adapted model in an accelerated pass, as `modules.training.acceleration` has it."""

    def core(batch: Batch) -> Tensor:
        with accelerated(handle, exclude=packing.excluded if packing else ()):
            return loss_of(handle.model, batch)

    return core


def _limit(model: nn.Module, bf16: bool) -> Trainee:
    """The frozen model, with gradients of its activations and of the task head alone."""
    if bf16:
        _lower(model)
    adapted = attach(model, resolve("head")())
    embed = model.get_input_embeddings()

    def feed(batch: Batch) -> Batch:
        """The backward pass must reach the first block: the embeddings are a leaf that wants a gradient."""
        embeddings = embed(batch["input_ids"]).detach().requires_grad_()
        return {k: v for k, v in batch.items() if k != "input_ids"} | {"inputs_embeds": embeddings}

    return Trainee(lambda batch: loss_of(model, batch), list(adapted.trained().values()), feed=feed, handle=adapted)


def _lower(model: nn.Module) -> None:
    from modules.acceleration.frozen_precision import lower_frozen

    lower_frozen(model, torch.bfloat16)
