"""Figures of single layers: how far each has moved its weight, and how large its gradients are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.errors import first_line
from variants.layer import AdapterLayer, LowRank, full_precision, wide
from variants.sites.architectures import architecture_of
from variants.sites.ranges import after_block, block_number

LayerFigures = dict[str, dict[str, float]]
"""Figure (update_norm, grad_norm) -> place in the model, such as 3/q, or all -> value."""


@torch.no_grad()
def layer_figures(
    adapted: AdaptedModel, gradients: Mapping[str, Tensor], base: dict[str, Tensor]
) -> tuple[LayerFigures, list[str]]:
    """Norms of each layer of the active adapter, and over all of them; the GPU is waited for once.

    update_norm is ‖ΔW‖ / ‖W‖ by Frobenius norms, ‖ΔW‖ of a low-rank product from its r x r Gram matrices. Layers that
    change no weight of a linear map have none.

    Args:
        gradients: by the names of what trains: of the last step, clipped where it was.
        base: ‖W‖ by path, of what has been computed: it is frozen. Filled here.

    Returns:
        The figures; and why some layers have no update_norm, once for each reason.
    """
    names = places(adapted)
    moved, missing = {}, []
    with full_precision(next(adapted.model.parameters())):
        for layer in adapted.layers:
            path = layer.site.path
            try:
                norm = update_norm(layer, adapted)
                if norm is not None and path not in base:
                    weight, first = wide(layer.site.weight().detach()), _first(layer, adapted)
                    base[path] = torch.linalg.vector_norm(weight if first is None else weight + first)
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                norm = None
                missing.append(f"{type(layer).__name__} tells no update_norm: {first_line(error)}")
            if norm is not None:
                moved[path] = norm
        steep = {path: _norm(_of(path, gradients)) for path in names if _of(path, gradients)}
        whole = {"grad_norm": _norm(gradients.values())} if gradients else {}
        if moved:
            every = torch.stack(list(moved.values())).norm() / torch.stack([base[path] for path in moved]).norm()
            whole["update_norm"] = every
    relative = {path: norm / base[path] for path, norm in moved.items()}
    tensors = [*relative.values(), *steep.values(), *whole.values()]
    values = iter(torch.stack([t.float() for t in tensors]).tolist() if tensors else ())
    found: LayerFigures = {}
    for figure, paths in (("update_norm", relative), ("grad_norm", steep)):
        found[figure] = {names[path]: next(values) for path in paths}
    for figure in whole:
        found[figure]["all"] = next(values)
    return {figure: own for figure, own in found.items() if own}, list(dict.fromkeys(missing))


def update_norm(layer: AdapterLayer, adapted: AdaptedModel) -> Tensor | None:
    """‖ΔW‖, a scalar; None of a layer that changes no weight. ΔW counts from the pretrained weight."""
    site = layer.site
    if site.kind is None or not adapted.variant.mergeable or site.in_shards:
        return None
    first = _first(layer, adapted)
    if type(layer).merged is not AdapterLayer.merged:
        weight = wide(site.weight())
        return torch.linalg.vector_norm(layer.merged(weight, site.bias())[0] - weight)
    if first is None and layer.declares_low_rank and (update := layer.low_rank()) is not None:
        return low_rank_norm(update)
    delta = wide(layer.delta_weight())
    return torch.linalg.vector_norm(delta if first is None else delta - first)


def _first(layer: AdapterLayer, adapted: AdaptedModel) -> Tensor | None:
    """The update at the start where it was taken off the base weight, which then lacks it."""
    if not adapted.variant.subtract_initial:
        return None
    return wide(adapted.adapter.first[layer.site.path]).to(layer.site.device)


def low_rank_norm(update: LowRank) -> Tensor:
    """‖s · diag(outer) B inner A‖ by ‖BA‖² = Σ (BᵀB) ∘ (AAᵀ): products of r x r, none of the weight's size."""
    A, B, scale, _, _ = update.widened().folded()
    return abs(scale) * ((B.mT @ B) * (A @ A.mT)).sum().clamp_min(0).sqrt()


def places(adapted: AdaptedModel) -> dict[str, str]:
    """Path of each layer -> its place such as 3/q: the block's number and the role of the map there.

    What has no role is called by the rest of its path; so are all where two would have one name.
    """
    known = architecture_of(adapted.model)
    found = {}
    for site in (layer.site for layer in adapted.layers):
        block, rest, part = block_number(site.path), after_block(site.path), site.path.rpartition(".")[2]
        role = next((role for role, end in known.maps.items() if re.search(rf"(?:^|\.){end}$", site.path)), rest)
        role = part if site.path != site.module_path and part in known.roles else role  # of a fused map
        found[site.path] = role if block is None else f"{block}/{role}"
    if len(set(found.values())) < len(found):
        found = {path: path.replace(".", "/") for path in found}
    return found


def _of(path: str, gradients: Mapping[str, Tensor]) -> list[Tensor]:
    return [gradient for name, gradient in gradients.items() if name.startswith(f"{path}.")]


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(wide(t)) for t in tensors]).norm()


def by_layer(figures: Mapping[str, float], adapted: AdaptedModel) -> tuple[dict[str, float], LayerFigures]:
    """A variant's figures: (those of the whole, those that it names NAME/PATH of a layer, by the layer's place)."""
    names = places(adapted)
    whole: dict[str, float] = {}
    found: LayerFigures = {}
    for key, value in figures.items():
        figure, _, path = key.partition("/")
        if path in names:
            found.setdefault(figure, {})[names[path]] = float(value)
        else:
            whole[key] = value
    return whole, found
