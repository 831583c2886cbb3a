"""Which linear maps of a model can be adapted, which cannot, and which ``all-linear`` leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from variants.sites.architectures import architecture_of, head_parameters, output_embedding
from variants.sites.kinds import kind_of, memory
from variants.sites.kinds.convolution import no_map
from variants.sites.kinds.experts import ExpertMap, can_show, is_shown
from variants.sites.ranges import block_number

HEAD = "belongs to the task head, which trains as a whole"
OUTPUT = "is the output embedding"
ROUTER = "routes and maps no features"
OUTSIDE = "is in no block"
INDEXER = "ranks tokens, and no gradient passes through a ranking"
TENSOR = "is a 3D parameter and no linear map"
EXPERTS = "is a 3D parameter with the weights of all experts, which cannot be adapted"
CAN_EXPERTS = "is a 3D parameter with the weights of all experts, adapted by the target experts alone"
CONV = "conv"
"""The target of convolutions: those that the family's row has for it, else all."""
CONVOLUTION = "is a convolution, which the target conv or its name adapts"
_OUTPUTS = re.compile(
    r"(?:^|\.)(?:lm_head|embed_out|output_projection)$|(?:lm_head|predictions)\.decoder$"
    r"|^(?:[^\d.][^.]*\.)*proj_out$"  # in a block it is something else
)
_INDEXERS = re.compile(r"(?:^|\.)indexer\.")
_ROUTERS = re.compile(r"(?:^|[._])(?:gate|router)(?:\.\w+)?$")


@dataclass(frozen=True)
class Candidates:
    """The linear maps of a model by their paths, in its order.

    Attributes:
        free: those that can be adapted.
        barred: why others cannot be.
        spared: why ``all-linear`` leaves one out that can be named, or cannot have it (experts).
    """

    free: dict[str, nn.Module]
    barred: dict[str, str]
    spared: dict[str, str]

    @property
    def inside(self) -> dict[str, nn.Module]:
        """Those of ``free`` that are in a block: what a role of the family can mean."""
        return {path: module for path, module in self.free.items() if self.spared.get(path) != OUTSIDE}


def candidates(model: nn.Module) -> Candidates:
    """The linear maps of a model, adapters' own apart."""
    head, family = set(head_parameters(model)), architecture_of(model)
    embeddings = {memory(m.weight): path for path, m in model.named_modules() if isinstance(m, nn.Embedding)}
    output = output_embedding(model)
    rows = {m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)}
    bypassed = dict(_bypassed(model))
    has_blocks = any(block_number(path) is not None for path, _ in model.named_modules())  # else it is one block
    free: dict[str, nn.Module] = {}
    barred: dict[str, str] = {}
    spared = tensors(model)
    for path, module in model.named_modules():
        kind = kind_of(module)
        if "adapter" in path.split("."):
            continue
        if kind is None:
            if isinstance(module, _ConvNd):
                barred[path] = no_map(module)
            continue
        if f"{path}.weight" in head:
            barred[path] = HEAD
        elif (tied := embeddings.get(memory(kind.parameter(module)))) is not None:
            barred[path] = f"shares its weight with the embedding {tied} (they are tied)"
        elif path in bypassed:
            barred[path] = bypassed[path]
        else:
            free[path] = module
            out, into = kind.shape(module)
            inside = block_number(path) is not None or not has_blocks
            if isinstance(module, ExpertMap):
                spared[path] = CAN_EXPERTS
            elif isinstance(module, _ConvNd):
                spared[path] = CONVOLUTION
            elif module is output or _OUTPUTS.search(path) or (out in rows and not inside and not family.roles):
                spared[path] = OUTPUT
            elif _ROUTERS.search(path) and 2 * out <= into:
                spared[path] = ROUTER
            elif _INDEXERS.search(path):
                spared[path] = INDEXER
            elif family.roles and not inside:
                spared[path] = OUTSIDE
    return Candidates(free, barred, spared)


def tensors(model: nn.Module) -> dict[str, str]:
    """3D parameters in blocks of the model's own classes, and why they are no maps: most hold several experts."""

    def why(path: str, module: nn.Module) -> str:
        if can_show(module):
            return CAN_EXPERTS
        return EXPERTS if "expert" in f"{path}.{type(module).__name__}".lower() else TENSOR

    return {
        f"{path}.{name}": why(path, module)
        for path, module in model.named_modules()
        if block_number(path) is not None and not isinstance(module, (_ConvNd, nn.Bilinear)) and not is_shown(module)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and len(parameter) > 1
    }


def _bypassed(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Maps whose weight another module reads and which are never called; why an adapter there would do nothing."""
    for path, module in model.named_modules():
        prefix, kind = f"{path}." if path else "", type(module)
        if isinstance(module, nn.MultiheadAttention) and kind.forward is nn.MultiheadAttention.forward:
            names = ("out_proj",)
        elif kind.__name__ in _BLOOM and module.pretraining_tp > 1 and module.slow_but_exact:
            names = (_BLOOM[kind.__name__],)
        elif kind.__name__.endswith("MambaMixer") and isinstance(getattr(module, "dt_proj", None), nn.Linear):
            names = ("dt_proj",)
        elif kind.__name__ in _NO_PRODUCTS:
            yield path, f"({kind.__name__}) computes in groups, and no product of its input with a matrix"
            continue
        else:
            continue
        for name in names:
            yield (
                f"{prefix}{name}",
                f"is never called, as {kind.__name__} reads its weight itself: nothing would train",
            )


_NO_PRODUCTS = ("DeepseekV4GroupedLinear",)
"""Subclasses of ``nn.Linear`` that compute something else."""
_BLOOM = {"BloomAttention": "dense", "BloomMLP": "dense_4h_to_h"}
"""With ``pretraining_tp`` above 1 and ``slow_but_exact``, it multiplies by slices of this map's weight."""
