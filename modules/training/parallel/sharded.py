"""Models larger than a GPU: the frozen weights of the blocks in shards, one on each device; what trains, on all."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.hooks import SiteAdapters
from variants.errors import UserError, VariantError
from variants.sites.architectures import backbone_of
from variants.sites.blocks import blocks

FLAG = "--trainer.strategy fsdp2"


def shard_base(adapted: AdaptedModel, mesh: DeviceMesh) -> None:
    """Keep of each block's frozen weights a shard on this process's device; gather a block when it computes.

    Blocks go to the device of ``mesh`` one by one, so that no device ever holds the whole model. What trains (adapters,
    head, biases), and what stands outside the blocks (embeddings, last norm, output embedding), is whole on every
    device: FSDP would gather the latter for the whole pass, so that shards of it would not lower the peak. Parameters
    outside the blocks stay where they are: the caller moves them.

    Base weights can be read in a block's own pass alone from now on (`Site.in_shards`): no merging, no other adapter.

    Args:
        adapted: with its adapter active, and initial values that need the base weights set.
        mesh: of one dimension, over all processes.

    Raises:
        UserError: it cannot be: see :func:`check_shardable`.
    """
    parts, whole = _split(adapted)
    model = adapted.model
    adapted.adapter.late.follow()
    adapted.adapter.late.starts.clear()  # the base is as it will be, and can be read no more
    for part in parts:
        fully_shard(part, mesh=mesh, ignored_params=whole)
    backbone = backbone_of(model)
    inside = {id(module) for module in backbone.modules()}
    # it alone knows the order of the blocks, and gathers the next while one computes; a model's head may call it alone
    fully_shard(backbone if all(id(part) in inside for part in parts) else model, mesh=mesh, ignored_params=whole)


def check_shardable(adapted: AdaptedModel, precision: str) -> None:
    """Whether a run can have its base in shards.

    Args:
        precision: Lightning's, as the user gave it.

    Raises:
        UserError: PyTorch is too old, the model has no blocks, nothing in them is frozen, their weights are of several
            dtypes or quantised, or the run is in fp16.
    """
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise UserError(f"{FLAG} needs torch 2.7 or newer, not {torch.__version__}; use ddp")
    if precision == "16-mixed":
        raise UserError(f"{FLAG} knows no fp16: use --trainer.precision bf16-mixed, or ddp")
    _split(adapted)


def _split(adapted: AdaptedModel) -> tuple[list[nn.Module], set[nn.Parameter]]:
    """The blocks, and the parameters that every device holds: what trains, adapters whether they train or not, and what
    is in no block. Raises UserError where the others cannot be sharded."""
    model = adapted.model
    try:
        parts = [model.get_submodule(path) for path in blocks(model)]
    except VariantError as error:
        raise UserError(f"{FLAG} shards a model's blocks, and {error}: use ddp") from error
    in_blocks = {parameter for part in parts for parameter in part.parameters()}
    whole = {parameter for parameter in model.parameters() if parameter.requires_grad or parameter not in in_blocks}
    whole |= {p for module in model.modules() if isinstance(module, SiteAdapters) for p in module.parameters()}
    frozen = {name: parameter for name, parameter in model.named_parameters() if parameter not in whole}
    if not frozen:
        raise UserError(f"{FLAG} shards what is frozen, and {adapted.variant.name} trains all of the blocks: use ddp")
    first = next(iter(frozen))
    for name, parameter in frozen.items():
        dtype, plain = parameter.dtype, type(parameter.data) is torch.Tensor
        if not plain or not dtype.is_floating_point or dtype.itemsize < 2:
            raise UserError(f"{FLAG} cannot shard {name}, which is quantised ({dtype}): use ddp, or a base in bfloat16")
        if dtype != frozen[first].dtype:
            raise UserError(
                f"{FLAG} wants weights of one dtype, and {first} is {frozen[first].dtype}, {name} {dtype}: "
                "--trainer.precision bf16-mixed makes all of them bfloat16"
            )
    return parts, whole
