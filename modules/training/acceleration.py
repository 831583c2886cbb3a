"""The one door to acceleration: everything that makes a run fast, or nothing of it.

No other file of a run imports `variants.acceleration` or `modules.acceleration`. Where either folder has been deleted,
where PyTorch lacks a private function that they use, and under ``--reference``, :class:`PlainComputation` carries the
run out: forward passes as the model defines them, padded batches, eager steps, ``torch.optim.AdamW``, and Lightning's
own autocast. The results are the same up to rounding.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, Union

import torch
from torch import Tensor, nn

from modules.benchmarks.causal import token_losses
from modules.benchmarks.causal.targets import CausalDataModule
from modules.data.module import PaddedDataModule
from modules.paths import has_acceleration
from modules.runs.config import RunConfig
from modules.training.gradients import clip_each
from modules.training.parallel import devices
from modules.training.parallel.plain_step import PlainStep
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.variant import BaseVariant

if TYPE_CHECKING:
    from modules.acceleration import packed_decoder, packed_encoder
    from variants.acceleration.basics.overrides import Override

Batch = dict[str, Tensor]
Packing = Union["packed_encoder.Packing", "packed_decoder.Packing"]
Clip = Callable[[Iterable[nn.Parameter], float], Any]
"""Scales the gradients of parameters, in place, to a norm of at most so much."""


class TrainingStep(Protocol):
    """Forward and backward pass in one call, for steps that are no matter of Lightning's.

    Of several processes each has the gradients of its own rows, until :meth:`average`.

    Attributes:
        unused: parameters that the last step gave no gradient.
    """

    unused: list[nn.Parameter]

    def zero(self) -> None:
        """Set all gradients to zero, before each accumulation."""

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs of a batch, detached; gradients are added to ``p.grad``."""

    def average(self) -> None:
        """Replace the gradients by their mean over all processes, after each accumulation."""


# ---- is there acceleration -----------------------------------------------------------------------------------------


@functools.cache
def available() -> bool:
    """Whether both folders are there and PyTorch has what they need; says so once where it has not."""
    if not has_acceleration():
        return False
    from variants.acceleration.basics import torch_private

    if not torch_private.available():
        warnings.warn(torch_private.why_unavailable(), stacklevel=2)
    return torch_private.available()


def wanted(config: RunConfig) -> bool:
    """Whether the run is to be accelerated: not under ``--reference``, and not where acceleration is unavailable."""
    return not getattr(config, "reference", False) and available()


def uses_graphs(config: RunConfig, precision: str) -> bool:
    """Whether training steps are replayed as CUDA graphs: on GPUs, not under fp16, whose scale may skip a step, and not
    over a base in shards, which messages to other processes bring together."""
    if not wanted(config) or config.compile == "off" or precision == "16-mixed" or devices.in_shards(config):
        return False
    if config.activation_offload:  # what is kept in the host's memory comes by messages that no graph holds
        return False
    return devices.on_gpu(config) and (devices.in_one_process(config) or averages(config, precision))


def averages(config: RunConfig, precision: str) -> bool:
    """Whether the run is in several processes and averages their gradients itself: not under fp16, whose scale
    DistributedDataParallel's gradients must have; always over a base in shards, for which there is nobody else."""
    if devices.in_shards(config):
        return True
    return wanted(config) and not devices.in_one_process(config) and precision != "16-mixed"


# ---- before and after adapters are attached ------------------------------------------------------------------------


def lower_backbone(model: nn.Module, variant: BaseVariant, config: RunConfig) -> str:
    """Cast the frozen backbone to bf16 where the run is in bf16-mixed; to be called before adapters are attached.

    A variant that trains weights of the base itself keeps them in fp32, under autocast.

    Returns:
        Lightning's ``precision`` for the run: a cast backbone needs no autocast, as adapter layers and the head know
        their own dtypes.
    """
    precision = config.training.get("precision", "32-true")
    if precision != "bf16-mixed" or not wanted(config) or list(variant.trainable(model)):
        return precision
    from modules.acceleration.frozen_precision import lower_frozen

    lower_frozen(model, torch.bfloat16)
    return "32-true"


def accelerate(
    handle: AdaptedModel | Stack, data: PaddedDataModule, config: RunConfig, precision: str
) -> PlainComputation:
    """How a run is computed; its model and data are changed accordingly until ``release()``.

    Args:
        handle: with its adapters attached.
        data: gives packed and filled batches from now on, where they pay.
        precision: Lightning's, from :func:`lower_backbone`.
    """
    if not wanted(config):
        computation = PlainComputation(averages(config, precision))
    else:
        graphs = uses_graphs(config, precision)
        data.fill = graphs  # every batch of a length has one shape
        packing = pack_rows(handle, data, config)
        computation = Acceleration(handle, data, graphs, averages(config, precision), packing)
        if devices.on_gpu(config) and isinstance(data, CausalDataModule):
            computation.overrides += language_model_overrides(handle.model, data, packed=packing is not None)
    computation.offload = config.activation_offload
    return computation


def language_model_overrides(model: nn.Module, data: CausalDataModule, packed: bool) -> list[Override]:
    """What is replaced in passes of a language model on a GPU: losses in chunks; padded rows have no mask."""
    from modules.acceleration.token_losses import in_chunks
    from modules.acceleration.unmasked_attention import unmasked

    losses = in_chunks(token_losses.token_losses, token_losses.shapes_nothing)
    return [(token_losses, "token_losses", losses), *([] if packed else unmasked(model, data.edges[-1]))]


def pack_rows(handle: AdaptedModel | Stack, data: PaddedDataModule, config: RunConfig) -> Packing | None:
    """Pack the rows of batches from now on, where the model can take them.

    Not with ``pad: max``, and of several seeds classifiers not on a CPU, where they would need equally many tokens.
    """
    from modules.acceleration import packed_decoder, packed_encoder

    causal, on_cpu = isinstance(data, CausalDataModule), devices.on_cpu(config)
    possible = (causal or len(data.seeds) == 1) if on_cpu else devices.on_gpu(config)
    if not possible or config.training.get("pad", "bucket") != "bucket":
        return None
    packing = packed_decoder.pack(handle, data.edges[-1]) if causal else packed_encoder.pack(handle)
    if packing:
        data.pack(packing.first_position, rounded=data.fill and not on_cpu)
    return packing


# ---- how a run is computed -----------------------------------------------------------------------------------------


class PlainComputation:
    """The reference: everything as PyTorch and Lightning compute it.

    Attributes:
        reference: whether this is the reference.
        graphs: whether training steps are CUDA graphs.
        averages: whether :meth:`training_step` averages gradients over processes; else Lightning's strategy does.
        offload: whether what a training pass keeps lies in the host's memory meanwhile.
    """

    reference = True
    graphs = False
    offload = False

    def __init__(self, averages: bool = False) -> None:
        self.averages = averages

    def forward_pass(self) -> AbstractContextManager[None]:
        """``with`` this, one forward pass of the adapted model."""
        return nullcontext()

    def updates(self) -> AbstractContextManager[None]:
        """``with`` this, the variant's penalty, or its own step after the optimizer's."""
        return nullcontext()

    def training_step(
        self, compute: Callable[[Batch], tuple[Tensor, ...]], parameters: Iterable[nn.Parameter]
    ) -> TrainingStep | None:
        """Forward and backward pass in one; None: Lightning does them.

        Args:
            compute: batch -> tensors, of which the first is the scalar to differentiate.
            parameters: all that trains.
        """
        return PlainStep(compute, parameters) if self.averages else None

    def adamw(self, groups: list[dict[str, Any]], eps: float, scaled: bool) -> torch.optim.Optimizer:
        """AdamW for parameter groups.

        Args:
            scaled: whether gradients are scaled, as fp16's are.
        """
        return torch.optim.AdamW(groups, eps=eps)

    def clip_in_step(self, optimizer: torch.optim.Optimizer, max_norm: float, clip: Clip) -> bool:
        """Let the optimizer's step clip gradients by norm (0: not at all); whether it does."""
        return False

    def clip_each(self, parameters: Iterable[nn.Parameter], max_norm: float) -> None:
        """Clip the gradients of stacked adapters, adapter by adapter."""
        clip_each(parameters, max_norm)

    def release(self) -> None:
        """Leave model and data as they were."""


class Acceleration(PlainComputation):
    """Accelerated passes, CUDA graphs and sequence packing. Made by :func:`accelerate`."""

    reference = False

    def __init__(
        self,
        handle: AdaptedModel | Stack,
        data: PaddedDataModule,
        graphs: bool,
        averages: bool,
        packing: Packing | None,
    ) -> None:
        from variants.acceleration import accelerated, accelerated_updates

        self.graphs, self.averages = graphs, averages
        self._data, self._packing = data, packing
        self.overrides: list[Override] = list(packing.overrides) if packing else []
        excluded = packing.excluded if packing else ()
        self._forward_pass = functools.partial(accelerated, handle, exclude=excluded, also=self.overrides)
        self._updates = functools.partial(accelerated_updates, handle)

    def forward_pass(self) -> AbstractContextManager[None]:
        """An accelerated pass (`variants.acceleration.accelerated`)."""
        return self._forward_pass()

    def updates(self) -> AbstractContextManager[None]:
        """The variant's batched updates (`variants.acceleration.accelerated_updates`)."""
        return self._updates()

    def training_step(
        self, compute: Callable[[Batch], tuple[Tensor, ...]], parameters: Iterable[nn.Parameter]
    ) -> TrainingStep | None:
        """A step as CUDA graphs or in several processes, where the run has either."""
        from modules.acceleration.cuda_graphs import GraphedStep

        return GraphedStep(compute, parameters, self.graphs) if self.graphs or self.averages else None

    def adamw(self, groups: list[dict[str, Any]], eps: float, scaled: bool) -> torch.optim.Optimizer:
        """AdamW as a CUDA graph, else fused where gradients are not scaled."""
        from modules.acceleration.cuda_graphs import GraphedAdamW

        if self.graphs:
            return GraphedAdamW(groups, eps=eps)
        return torch.optim.AdamW(groups, eps=eps, fused=not scaled)

    def clip_in_step(self, optimizer: torch.optim.Optimizer, max_norm: float, clip: Clip) -> bool:
        """As a part of the optimizer's CUDA graph, where there is one."""
        if not hasattr(optimizer, "max_norm"):  # none that is a graph: a variant's own, for one
            return False
        optimizer.max_norm, optimizer.clip = max_norm, clip
        return True

    def clip_each(self, parameters: Iterable[nn.Parameter], max_norm: float) -> None:
        """In one operation for all adapters' tensors."""
        from modules.acceleration import clipping

        clipping.clip_each(parameters, max_norm)

    def release(self) -> None:
        """Undo the packing; batches are padded again."""
        self._data.fill = False
        if self._packing:
            self._packing.release()
            self._data.pack(None)
