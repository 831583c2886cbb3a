"""loralib's files: a torch state dict of ``<module>.lora_A``, ``<module>.lora_B`` and what else was trained."""

from __future__ import annotations

import io
import math
import os
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.atomic import write_atomic
from variants.errors import VariantError
from variants.formats.boundary import refuse_wrapped, refusing
from variants.formats.common import base_of, by_module, install, is_stand_in
from variants.layer import AdapterLayer
from variants.methods.lora import LoRA
from variants.sites.kinds import is_linear
from variants.sites.site import Site
from variants.sites.targets import find_sites, name_target


def save(adapted: AdaptedModel, file: str | os.PathLike) -> float:
    """Write the active LoRA adapter, head included, as ``loralib`` and its examples read it.

    Equal slices of a fused map become one MergedLinear: A stacked (n r, in), B stacked (n width, r).

    Returns:
        ``lora_alpha``, which the file does not hold and its reader must be told.

    Raises:
        VariantError: loralib has no form for it.
    """
    if adapted.variant.name != "lora":
        raise VariantError(f"loralib has no form for {adapted.variant.name}, only for lora")
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    alphas = {}
    for path, layers in by_module(adapted.layers).items():
        _check_slices(path, layers)
        tensors[f"{path}.lora_A"] = torch.cat([layer.lora_A for layer in layers])
        tensors[f"{path}.lora_B"] = torch.cat([layer.lora_B for layer in layers])
        alphas |= {layer.site.path: layer.scaling * len(layer.lora_A) for layer in layers}
    alpha = next(iter(alphas.values()))
    if odd := [path for path, a in alphas.items() if abs(a - alpha) > 1e-6 * abs(alpha)]:
        raise VariantError(f"loralib has one alpha for all layers: {odd[0]} has {alphas[odd[0]]}, others {alpha}")
    state = adapted.state_dict()
    tensors |= {key: state[key] for key in adapted.adapter.in_place}
    buffer = io.BytesIO()
    torch.save(OrderedDict((key, t.detach().cpu().clone()) for key, t in tensors.items()), buffer)
    write_atomic(file, buffer.getvalue())
    return alpha


def _check_slices(path: str, layers: list[AdapterLayer]) -> None:
    if layers[0].site.is_whole:
        return
    shapes = {(layer.config.r, layer.site.out_features) for layer in layers}
    if len(shapes) > 1 or layers[0].site.rows.groups > 1 or layers[0].site.total_out % layers[0].site.out_features:
        raise VariantError(f"loralib cannot express the slices of {path}: they must be equal parts of equal rank")
    if _enabled(len(layers), layers[0].site) != [layer.site.start // layer.site.out_features for layer in layers]:
        raise VariantError(f"a loralib file does not say which slices of {path} it adapts; only q and v are understood")


def read(file: str | os.PathLike) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Tensors of a loralib file: ``lora_A`` and ``lora_B`` by module, and the others.

    Raises:
        VariantError: it is no state dict of whole tensors, or half of a pair is missing or is no matrix.
    """
    with refusing(f"{file} is no loralib file"):
        state = torch.load(file, map_location="cpu", weights_only=True)
    state = state.get("model_state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(map(_whole, state, state.values())):
        raise VariantError(f"{file} is no loralib file: it holds something other than a state dict")
    layers: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in state.items():
        path, _, end = key.rpartition(".")
        if end in ("lora_A", "lora_B"):
            layers.setdefault(path, {})[end] = tensor
        else:
            others[key] = tensor
    if not layers:
        raise VariantError(f"{file} is no loralib file: it has no lora_A and lora_B")
    if half := [path for path, own in layers.items() if len(own) < 2]:
        raise VariantError(f"{file} has only {next(iter(layers[half[0]]))} of {half[0]}")
    for path, own in layers.items():
        for key, tensor in own.items():
            if tensor.ndim != 2 or not tensor.numel() or not tensor.is_floating_point():
                kind = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise VariantError(f"{file}: {path}.{key} is no matrix of numbers but {kind}")
    return layers, others


def _whole(key: object, tensor: object) -> bool:
    """A tensor under a name, with every element in the file: not a few that stand for very many."""
    if not (isinstance(key, str) and isinstance(tensor, Tensor) and tensor.layout is torch.strided):
        return False
    plain = tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def load(
    model: nn.Module | AdaptedModel, file: str | os.PathLike, *, alpha: float | None = None, name: str = "default"
) -> AdaptedModel:
    """Put the adapter of a loralib file on ``model``, or beside the others of an attached one.

    Args:
        alpha: ``lora_alpha`` it was trained with; the file does not hold it (16 for the authors' RoBERTa files).

    Raises:
        VariantError: alpha is missing, or a tensor has no place in the model or does not fit it.
    """
    layers, others = read(file)
    if alpha is None:
        raise VariantError(f"{file}: loralib files do not hold alpha; give it (the authors' RoBERTa files need 16)")
    if not math.isfinite(alpha):
        raise VariantError(f"alpha={alpha} is no number to scale by")
    base = base_of(model)
    refuse_wrapped(Path(file), (*layers, *others), base)
    with refusing(f"{file} does not fit this model"):
        return _install(model, base, Path(file), layers, others, float(alpha), name)


def _install(
    model: nn.Module | AdaptedModel,
    base: nn.Module,
    file: Path,
    layers: dict[str, dict[str, Tensor]],
    others: dict[str, Tensor],
    alpha: float,
    name: str,
) -> AdaptedModel:
    known = dict(base.named_modules())
    parts: list[tuple[Site, Tensor, Tensor]] = []
    for path, own in layers.items():
        if path not in known or not is_linear(known[path]):
            raise VariantError(f"{file} adapts {path}, which is no linear map of this model")
        parts += _parts(Site(known[path], path, path), own["lora_A"], own["lora_B"])
    target = name_target(base, [site for site, _, _ in parts], is_stand_in(base))
    paths = {site.span: site.path for site in find_sites(base, target)}
    ranks = {paths[site.span]: len(a) for site, a, _ in parts}
    r = next(iter(ranks.values()))
    per_layer = {path: {"r": k} for path, k in ranks.items() if k != r}
    tensors = {f"{paths[site.span]}.lora_{x}": t for site, a, b in parts for x, t in (("A", a), ("B", b))}
    variant = LoRA(r=r, alpha=alpha, target=target, per_layer=per_layer)
    return install(model, name, variant, tensors | others, others)


def _parts(whole: Site, a: Tensor, b: Tensor) -> list[tuple[Site, Tensor, Tensor]]:
    """Sites of one module with their A and B: several where the file is MergedLinear's.

    MergedLinear's update of its i-th enabled part is rows i of B, (width, r), times rows i of A, (r, in).
    """
    groups, rest = divmod(len(a), b.shape[1])
    if groups == 1 and len(b) == whole.total_out and not rest:
        return [(whole, a, b)]
    width = len(b) // max(groups, 1)
    site = Site(whole.module, whole.path, whole.path, 0, width)
    enabled = _enabled(groups, site) if width and not rest and whole.total_out % width == 0 else None
    if enabled is None:
        raise VariantError(
            f"{whole.path} has lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)} in the file, which fit neither "
            f"{whole.total_out} outputs nor q and v among three equal parts of them"
        )
    slices = [Site(whole.module, f"{whole.path}.{i}", whole.path, i * width, (i + 1) * width) for i in enabled]
    return list(zip(slices, a.chunk(groups), b.chunk(groups), strict=True))


def _enabled(groups: int, site: Site) -> list[int] | None:
    """Which of a fused map's equal parts a file with ``groups`` of them adapts: all, or q and v of q, k and v."""
    parts = site.total_out // site.out_features
    return {parts: list(range(parts))}.get(groups, [0, 2] if (groups, parts) == (2, 3) else None)
