"""Models larger than a GPU: the frozen weights of the blocks in shards, one on each device; what trains, on all."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.hooks import SiteAdapters
from variants.errors import UserError, VariantError
from variants.sites.architectures import backbone_of
from variants.sites.blocks import blocks


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
        UserError: PyTorch is too old, the model has no blocks, nothing in them is frozen, or their weights are of
            several dtypes or quantised.
    """
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise UserError(f"--trainer.strategy fsdp2 needs torch 2.7 or newer, not {torch.__version__}; use ddp")
    model = adapted.model
    parts = [model.get_submodule(path) for path in _blocks(model)]
    whole = _whole(model, parts)
    _check(model, whole, adapted.variant.name)
    adapted.adapter.late.follow()
    adapted.adapter.late.starts.clear()  # the base is as it will be, and can be read no more
    for part in parts:
        fully_shard(part, mesh=mesh, ignored_params=whole)
    backbone = backbone_of(model)
    inside = {id(module) for module in backbone.modules()}
    # it alone knows the order of the blocks, and gathers the next while one computes; a model's head may call it alone
    fully_shard(backbone if all(id(part) in inside for part in parts) else model, mesh=mesh, ignored_params=whole)


def is_sharded(model: nn.Module) -> bool:
    """Whether any of a model's parameters is in shards: then every process must run the same passes."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def _blocks(model: nn.Module) -> list[str]:
    try:
        return list(blocks(model))
    except VariantError as error:
        raise UserError(f"--trainer.strategy fsdp2 shards a model's blocks: {error}; use ddp") from error


def _whole(model: nn.Module, parts: list[nn.Module]) -> set[nn.Parameter]:
    """Parameters that every device holds: what trains, adapters whether they train or not, and what is in no block."""
    kept = {parameter for parameter in model.parameters() if parameter.requires_grad}
    kept |= {p for module in model.modules() if isinstance(module, SiteAdapters) for p in module.parameters()}
    in_blocks = {parameter for part in parts for parameter in part.parameters()}
    return kept | (set(model.parameters()) - in_blocks)


def _frozen(model: nn.Module, whole: set[nn.Parameter]) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter not in whole)


def _check(model: nn.Module, whole: set[nn.Parameter], variant: str) -> None:
    """Raise UserError where what is to be sharded cannot be."""
    frozen = list(_frozen(model, whole))
    if not frozen:
        raise UserError(
            f"--trainer.strategy fsdp2 shards what is frozen, and {variant} trains every weight of the blocks: use ddp"
        )
    first, dtype = frozen[0][0], frozen[0][1].dtype
    for name, parameter in frozen:
        if not parameter.dtype.is_floating_point or parameter.dtype.itemsize < 2 or type(parameter.data) is not torch.Tensor:
            raise UserError(
                f"--trainer.strategy fsdp2 cannot shard {name}, which is quantised ({parameter.dtype}): use ddp, or load "
                "the model in float32 or bfloat16"
            )
        if parameter.dtype != dtype:
            raise UserError(
                f"--trainer.strategy fsdp2 gathers weights of one dtype: {first} is {dtype} and {name} "
                f"{parameter.dtype}; --trainer.precision bf16-mixed makes all of them bfloat16"
            )
