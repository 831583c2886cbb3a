"""A frozen base in few bits under any variant (QLoRA, Dettmers et al. 2023, arXiv 2305.14314).

    adapted = attach(model, LoRA(r=16, target="all-linear"))
    quantise(adapted, "nf4-dq")

Attach first: a method that takes its first update off the base (PiSSA) then sees the weights as they were, and what is
left of them is quantised. bitsandbytes stores and multiplies; `variants.sites.kinds.few_bits` reads its weights.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from variants.adapters import hooks
from variants.adapters.adapted_model import AdaptedModel
from variants.errors import VariantError
from variants.layer import AdapterLayer, wide
from variants.schemes import SCHEMES, Scheme, check_installed
from variants.sites.architectures import head_parameters, output_embedding
from variants.sites.kinds import is_conv1d, kind_of, memory
from variants.sites.kinds.few_bits import (
    NOTE,
    FewBits,
    Quantisation,
    dequantised,
    numel,
    packed_maps,
    quantisation_of,
    stored,
)
from variants.wrappers import unwrapped


def quantise(
    model: nn.Module | AdaptedModel,
    scheme: str,
    *,
    compute_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Quantisation:
    """Keep the frozen linear maps of a model in few bits, in place.

    The task head, embeddings, the output embedding, norms, biases, maps that are tied or that transformers keeps in
    fp32, and experts of one 3D parameter stay as they are.

    Args:
        model: a model, or the handle of an adapted one.
        scheme: one of `SCHEMES`.
        compute_dtype: what the maps multiply in, and what weights are rounded to before: by default their own dtype.
        device: where codes are computed; weights stay where they are.

    Raises:
        VariantError: bitsandbytes is not installed, the scheme is unknown, the model is quantised already, or what its
            adapter trains or has changed cannot be.
    """
    handle = model if isinstance(model, AdaptedModel) else None
    base = handle.model if handle else unwrapped(model)
    found = _scheme(scheme)
    library = bitsandbytes_maps()
    if handle is None and hooks.is_adapted(base):
        raise VariantError("the model carries adapters: give quantise() their handle, which attach() has returned")
    if (known := quantisation_of(base)) is not None:
        raise VariantError(f"the model is in {known.scheme} already")
    if handle:
        _refuse(handle)
    chosen = dict(quantisable(base, handle.adapter.in_place if handle and handle.active else ()))
    if not chosen:
        raise VariantError("the model has no linear map that could be kept in few bits")
    if handle:
        handle.note_base()
    squares, off = 0.0, 0.0
    for module in chosen.values():
        weight = module.weight.detach().t().contiguous() if is_conv1d(module) else module.weight.detach()
        dense = weight.to(device or weight.device, compute_dtype or weight.dtype)
        packed = library.packed(dense, found.quant_type, found.double)
        squares += _square(dense)
        off += _square(dequantised(packed) - dense)
        library.pack(module, tuple(weight.shape), packed.to(weight.device), dense.dtype)
    if handle:
        for adapter in handle.adapters.values():
            for layer in adapter.layers.values():
                layer.site.kind = kind_of(layer.site.module) or layer.site.kind
    dtype = str(compute_dtype or next(iter(chosen.values())).compute_dtype).removeprefix("torch.")
    note = Quantisation(scheme, dtype, (off / squares) ** 0.5 if squares else 0.0, len(chosen))
    vars(base)[NOTE] = note
    return note


def scheme_in(described: Mapping[str, Any], where: object) -> tuple[str, torch.dtype]:
    """The scheme and the dtype of products, from what an adapter's file says (`Quantisation.described`).

    Raises:
        VariantError: it says neither.
    """
    scheme, dtype = described.get("scheme"), getattr(torch, str(described.get("compute_dtype")), None)
    if not isinstance(scheme, str) or not isinstance(dtype, torch.dtype):
        raise VariantError(f"{where}: its quantisation names no scheme and compute_dtype")
    return scheme, dtype


def dequantise(model: nn.Module) -> None:
    """Keep the maps of a model as dense matrices again, of the values that their codes stand for."""
    kind = FewBits()
    for module in model.modules():
        if kind.fits(module):
            kind.stand_in(module)
            kind.forget(module)
    vars(model).pop(NOTE, None)
    if (config := getattr(model, "config", None)) is not None and hasattr(config, "quantization_config"):
        del config.quantization_config


def give_back(model: nn.Module) -> None:
    """Make the maps of a model that nothing is attached to bitsandbytes' own, for a library that looks for these."""
    own = bitsandbytes_maps().OWN.values()
    for module in model.modules():
        if type(module) in own:
            module.__class__ = type(module).__base__


class MergeErrors(NamedTuple):
    """What is lost when an adapter leaves the base in few bits that it was trained on: relative errors (Frobenius) of
    all adapted maps together, against base in few bits and adapter.

    Attributes:
        merged: of the dense map of both, rounded to what it is kept in.
        original: of the adapter on the base as it was before.
        requantised: of the dense map quantised again.
    """

    merged: float
    original: float
    requantised: float


@torch.no_grad()
def merge_errors(adapted: AdaptedModel, scheme: str, compute_dtype: torch.dtype | None = None) -> MergeErrors:
    """What merging costs an adapter that was trained on a base in few bits; one map at a time is quantised for it.

    Args:
        adapted: on the base as it was before.
        scheme, compute_dtype: as `quantise` takes them.
    """
    library, found = bitsandbytes_maps(), _scheme(scheme)

    def rounded(matrix: Tensor) -> Tensor:
        dense = matrix.to(compute_dtype or kept_in)
        return dequantised(library.packed(dense, found.quant_type, found.double))

    total, off = 0.0, [0.0, 0.0, 0.0]
    maps = {module for _, module in quantisable(adapted.model, adapted.adapter.in_place)}
    for module, layers in itertools.groupby(adapted.layers, key=lambda layer: layer.site.module):
        if module not in maps:
            continue
        parts = list(layers)
        whole, kept_in = parts[0].site.whole(), parts[0].site.dtype
        before, was = whole.weight().clone(), whole.kept(bias=False)
        original = _folded(before, parts)
        whole.write(rounded(before).to(kept_in), None)
        found_there = _folded(whole.weight(), parts)
        whole.restore(was)
        total += _square(found_there)
        for place, other in enumerate((found_there.to(kept_in), original, rounded(found_there))):
            off[place] += _square(other - found_there)
    return MergeErrors(*((own / total) ** 0.5 if total else 0.0 for own in off))


def _folded(base: Tensor, layers: Sequence[AdapterLayer]) -> Tensor:
    """The matrix (out, in) of a whole map and its layers, in fp32 at least."""
    matrix = wide(base).clone()
    for layer in layers:
        (weight, _), _ = layer.folded()
        layer.site.rows.write(matrix, weight)
    return matrix


def _square(matrix: Tensor) -> float:
    return wide(matrix).square().sum().item()


def bits_per_parameter(model: nn.Module) -> float:
    """What the packed weights of a model take, scales included, measured on the bytes stored; code books, which all
    share, are left out.

    Raises:
        VariantError: it has none.
    """
    weights = [module.weight for module in packed_maps(model)]
    if not weights:
        raise VariantError("the model keeps no weight in few bits")
    size = sum(tensor.nbytes for weight in weights for tensor in stored(weight))
    return 8 * size / sum(map(numel, weights))


def bitsandbytes_maps() -> Any:
    """The module of bitsandbytes' maps (`variants.sites.kinds.library`).

    Raises:
        VariantError: the library is not installed, in one line that says how to.
    """
    check_installed()
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)  # it advises a program from the Hub that products on a CPU could use
    try:
        from variants.sites.kinds import library
    finally:
        log.setLevel(level)
    return library


def _scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        raise VariantError(f"unknown quantisation {name!r}; there are {', '.join(SCHEMES)}")
    return SCHEMES[name]


def _refuse(handle: AdaptedModel) -> None:
    """Raise VariantError where an adapter stands in the way."""
    if handle.state.merged:
        raise VariantError("the adapter is merged: unmerge() before the base is quantised")
    reduced = [name for name, adapter in handle.adapters.items() if adapter.first]
    if reduced and (len(handle.adapters) > 1 or not handle.state.on):
        raise VariantError(
            f"{reduced[0]} has taken its first update off the base, which would be quantised without it: quantise when "
            "it is the only adapter, and on"
        )


def quantisable(model: nn.Module, in_place: Sequence[str] = ()) -> Iterator[tuple[str, nn.Module]]:
    """The linear maps that are kept in few bits, by path.

    Args:
        in_place: paths of what an adapter trains itself.

    Raises:
        VariantError: it trains one of them, or their weights are not loaded.
    """
    head, own = set(head_parameters(model)), set(in_place)
    wide = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    owners: dict[Any, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[memory(parameter)] = owners.get(memory(parameter), 0) + 1
    last = output_embedding(model)
    for path, module in model.named_modules():
        if type(module) is not nn.Linear and not is_conv1d(module):
            continue
        weight = f"{path}.weight"
        if weight in head or module is last or owners[memory(module.weight)] > 1 or not _is_plain(module):
            continue
        if any(part in wide for part in path.split(".")):
            continue
        if weight in own:
            raise VariantError(
                f"the method trains {weight} itself, which few bits cannot hold: take one that adds to the weights, "
                "or leave the base as it is"
            )
        if module.weight.is_meta:
            raise VariantError(f"{weight} is on the meta device: load the model's weights before they are quantised")
        yield path, module


def _is_plain(module: nn.Module) -> bool:
    weight = module.weight
    return type(weight) is nn.Parameter and weight.dtype.is_floating_point and weight.dtype.itemsize > 1
