"""Layers folded into plain weights: all of them or none, and the modules themselves asked whether it came out right."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from variants.errors import VariantError, first_line
from variants.layer import AdapterLayer, full_precision, seeded
from variants.sites.kinds import memory
from variants.sites.site import Site

Folded = tuple[Tensor, Tensor | None]
"""Weight (out, in) and bias (out) of the plain map that equals base and adapter together."""
ROWS = 8
"""Rows of the probe that goes through each module."""


def merge_into(model: nn.Module, layers: Mapping[str, AdapterLayer]) -> tuple[dict[str, Any], float]:
    """Write base and adapter together into the weights of the modules, whose hooks are in place and awake.

    A module may read its weight in a way of its own (a scale, a parametrisation), so a probe goes through each before
    and after.

    Returns:
        What was there, by path, for :meth:`Site.restore`; and the largest of :func:`fold`'s differences.

    Raises:
        VariantError: a weight is shared, unreadable or not finite, or a module computes something else than before;
            then every weight is as it was.
    """
    sites = {layer.site.module: layer.site for layer in layers.values()}
    with _evaluating(sites), full_precision(next(iter(layers.values())).site.parameter):
        refuse_tied(model, layers.values())
        folded, off = fold(layers)
        before = {module: _answer(site) for module, site in sites.items()}
        return _write(layers, folded, off, before), max(off.values())


def _write(
    layers: Mapping[str, AdapterLayer],
    folded: Mapping[str, Folded],
    off: Mapping[str, float],
    before: Mapping[nn.Module, Tensor],
) -> dict[str, Any]:
    """Write all of ``folded``, or nothing where outputs are not those of ``before``; what was there."""
    sites = {layer.site.module: layer.site for layer in layers.values()}
    with _asleep(sites):
        base = {module: _answer(site) for module, site in sites.items()}
        kept: dict[str, Any] = {}
        try:
            for path, (weight, bias) in folded.items():
                site = layers[path].site
                kept[path] = site.kept()
                site.write(weight, bias)
            for module, site in sites.items():
                own = max(off[path] for path, layer in layers.items() if layer.site.module is module)
                _compare(site, before[module], _answer(site), base[module], own)
        except Exception:
            for path, was in reversed(kept.items()):
                layers[path].site.restore(was)
            raise
    return kept


def fold(layers: Mapping[str, AdapterLayer]) -> tuple[dict[str, Folded], dict[str, float]]:
    """The merged map of each site, and its largest difference from base and adapter (:meth:`AdapterLayer.folded`).

    Raises:
        VariantError: a map is not finite.
    """
    folded, off = {}, {}
    for path, layer in layers.items():
        if layer.site.parameter.is_meta:
            raise VariantError(f"cannot merge into {path}: its weight is not loaded (it is on the meta device)")
        (weight, bias), off[path] = layer.folded()
        if not (weight.isfinite().all() and (bias is None or bias.isfinite().all())):
            whose = "adapter has" if layer.site.weight().isfinite().all() else "base weight has"
            raise VariantError(f"cannot merge into {path}: its {whose} values that are not finite (NaN or infinity)")
        folded[path] = weight, bias
    return folded, off


def refuse_tied(model: nn.Module, layers: Iterable[AdapterLayer]) -> None:
    """Raise VariantError where a layer's base weight is another module's too (merging would change both), or no part of
    the model any more.

    A module that is reached under two names is one module.
    """
    owners: dict[Hashable, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(memory(parameter), []).append(f"{path}.{name}")
    present = set(model.modules())
    for layer in layers:
        if layer.site.module not in present:
            raise VariantError(f"cannot merge into {layer.site.path}: another module is in its place since")
        shared = owners.get(memory(layer.site.parameter), [])
        if len(shared) > 1:
            raise VariantError(f"cannot merge into {shared[0]}: the same tensor is {shared[1]}")


@contextmanager
def _evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The modules without dropout, nor what reading a weight changes in training (a spectral norm's vectors)."""
    modes = {child: child.training for module in modules for child in module.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _asleep(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The modules without what their adapters add."""
    awake = [module.adapter for module in modules if module.adapter.enabled]
    for adapter in awake:
        adapter.enabled = False
    try:
        yield
    finally:
        for adapter in awake:
            adapter.enabled = True


def _answer(site: Site) -> Tensor:
    """What the site's module, hooks included, makes of a few random rows.

    What it counts or observes in its buffers meanwhile is forgotten.
    """
    module = site.module
    probe = site.kind.probe(module, ROWS, seeded(1, site.module_path)).to(site.device, site.dtype)
    try:
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        return functional_call(module, buffers, probe).detach().to(torch.promote_types(site.dtype, torch.float32))
    except Exception as error:  # whatever a module of another's raises
        message = f"cannot merge into {site.module_path}: it cannot be called alone to see what comes out"
        raise VariantError(f"{message} ({first_line(error)})") from error


def _compare(site: Site, before: Tensor, after: Tensor, base: Tensor, off: float) -> None:
    """Raise VariantError where a module's outputs are not those of base and adapter, up to rounding.

    Args:
        off: how far the layer's merged map is from the layer, with nothing of the module in it.
    """
    size = torch.stack([before, base]).square().mean().sqrt()  # base and adapter may cancel
    error, most = (after - before).square().mean().sqrt(), _tolerance(site.dtype) * size
    if error <= most:  # NaN is not
        return
    if off > most:
        reason = f"the merged map is off by {off:.1e} from base and adapter, so the method is no linear map"
    else:
        reason = (
            f"{type(site.module).__name__} gives other outputs with the merged weight than with the adapter "
            f"({error / size:.0e} of their size), so it reads its weight in a way of its own"
        )
    raise VariantError(f"cannot merge into {site.module_path}: {reason}; nothing was merged")


def _tolerance(dtype: torch.dtype) -> float:
    """Rounding errors of a map's outputs, relative to their size: of rounded weights, or of TensorFloat-32."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return 2e-3
    return max(8 * torch.finfo(dtype).eps, 1e-4)
