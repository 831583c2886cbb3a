"""A run's adapter as directions: what its matrices look along, where that started, and what it amplifies."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modules.analysis.subspace import Amplification, amplification, right_singular
from modules.runs.config import RunConfig
from variants.adapters.adapter import Adapter
from variants.errors import UserError
from variants.formats.native import load, read_adapter
from variants.methods.lora import LoRALayer
from variants.registry import resolve


@dataclass
class Directions:
    """One run, by site path.

    Attributes:
        name: of the run: its id, or its folder's name.
        trained: right singular vectors (in_features, r) of A or of ΔW.
        start: the same of A before training; empty where the run did not start from its seed alone.
        amplified: Table 7's norms; empty without the backbone's weights.
        remark: what a reader must know, or "".
    """

    name: str
    label: str
    trained: dict[str, Tensor]
    start: dict[str, Tensor] = field(default_factory=dict)
    amplified: dict[str, Amplification] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Place:
    """Where a run's adapter lies, and what is known of it before anything is loaded."""

    name: str
    adapter: Path
    config: dict[str, Any]
    run: RunConfig | None

    @property
    def has_A(self) -> bool:
        layer = resolve(self.config["variant"]).layer
        return isinstance(layer, type) and issubclass(layer, LoRALayer)

    @property
    def label(self) -> str:
        """Such as ``lora r=8 seed 0 (cola)``."""
        variant = resolve(self.config["variant"])
        size = f" {variant.size}={self.config['options'][variant.size]}" if variant.size else ""
        task = f" ({self.config['task']})" if self.config.get("task") else ""
        return f"{variant.name or variant.__name__}{size} seed {self.config.get('seed', 0)}{task}"


def find(name: str, results_dir: str | Path, which: str = "best") -> Place:
    """A run's id under ``results_dir``, a run's folder, or an adapter folder.

    Args:
        which: of a run's adapters: best or last.

    Raises:
        UserError, VariantError: there is none, or it is damaged.
    """
    folder = Path(name) if Path(name).is_dir() else Path(results_dir) / "runs" / name
    if not folder.is_dir():
        raise UserError(f"no run {name!r}: it is neither a folder nor an id under {Path(results_dir) / 'runs'}")
    adapter = folder if (folder / "adapter.json").is_file() else folder / which
    config, _ = read_adapter(adapter)
    run = adapter.absolute().parent
    known = RunConfig.read(str(run.parent.parent), run.name) if (run / "config.json").is_file() else None
    return Place(run.name if known else folder.resolve().name, adapter, config, known)


def directions(place: Place, of: str, model: str | None = None) -> Directions:
    """Read a run.

    Args:
        of: "A" (the paper's choice, for LoRA and what derives from it) or "delta" (ΔW, for all that has one).
        model: its backbone, where that is no longer where it was; folder, Hub id or embedded.

    Raises:
        UserError, VariantError: the adapter has no ΔW, or the model that is given is not its backbone.
    """
    base, remark = _backbone(place, model)
    if remark and of == "delta":  # DoRA's, for one, depends on W
        raise UserError(f"{remark}; nor are there directions of ΔW")
    adapted = load(base, place.adapter, strict=True)
    if not adapted.layers or not adapted.variant.mergeable:
        raise UserError(f"{place.name}: {adapted.variant.name} adds no ΔW to weights, so there is nothing to compare")
    adapter = adapted.adapter
    adapted.deactivate()  # a variant that takes its first value off W gives W back
    matrices = {path: layer.lora_A if of == "A" else update(adapter, path) for path, layer in adapter.layers.items()}
    trained = {path: right_singular(matrix, _rank(adapter.layers[path])) for path, matrix in matrices.items()}
    amplified, start = {}, {}
    if not getattr(base, "is_stand_in", False):
        for path, layer in adapter.layers.items():
            amplified[path] = amplification(layer.site.weight().detach(), update(adapter, path), _rank(layer))
    if of == "A" and not (place.run and place.run.init_from):
        adapted.add("start", adapter.variant, place.config.get("seed", 0))
        start = {path: right_singular(layer.lora_A, _rank(layer)) for path, layer in adapted.adapter.layers.items()}
    return Directions(place.name, place.label, trained, start, amplified, remark)


def update(adapter: Adapter, path: str) -> Tensor:
    """ΔW (out, in) at one site: all that the adapter changes of the backbone's own weight, which must be in place."""
    layer = adapter.layers[path]
    delta = layer.delta_weight().detach()
    if path in adapter.residual:  # what it took off at the start counts too
        delta = delta + adapter.residual[path] - layer.site.weight().detach()
    return delta


def _backbone(place: Place, model: str | None) -> tuple[nn.Module, str]:
    """(the run's backbone, ""), or a stand-in of the right shapes and why."""
    from modules.backbones.loading import resolve as folder_of
    from modules.benchmarks.base import benchmark
    from variants.formats.base_model import load_model, stand_in

    spec = model or (place.run.backbone.get("spec") if place.run else None)
    try:
        if not spec:
            raise UserError("no run file says what it is")
        embedded = benchmark(place.run.benchmark).embedded() if place.run and spec == "embedded" else None
        return load_model(str(folder_of(spec, embedded)[2]), place.adapter), ""
    except UserError as error:
        if model:
            raise
        return stand_in(place.adapter), f"{place.name}: no amplification without its backbone (--model): {error}"


def _rank(layer) -> int:
    """How many directions count: the variant's size (r), or all where it has none."""
    size = layer.config.size
    return getattr(layer.config, size) if size else min(layer.site.in_features, layer.site.out_features)


def block_and_kind(path: str) -> tuple[int, str]:
    """(number of the block, place within it): ``roberta.encoder.layer.3.attention.self.query`` is (3, ...query)."""
    found = re.search(r"(?:^|\.)(\d+)\.(.+)$", path)
    return (int(found[1]), found[2]) if found else (0, path)
