"""The singular directions of a run's adapter: trained, before training, and what they amplify of the backbone."""

from __future__ import annotations

from collections.abc import Iterable
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
from variants.named import known, named_in
from variants.sites.ranges import after_block, block_number
from variants.variant import BaseVariant


@dataclass
class Directions:
    """Directions of a run, by path of the site.

    Attributes:
        name: id of the run, or name of its folder.
        label: for a reader, such as ``lora r=8 seed 0 (cola)``.
        trained: right singular vectors (in_features, r) of A or of ΔW.
        start: the same of A before training; empty where the run did not start from its seed alone.
        amplified: Table 7's norms; empty without the backbone's weights.
        remark: on what could not be computed, or "".
    """

    name: str
    label: str
    trained: dict[str, Tensor]
    start: dict[str, Tensor] = field(default_factory=dict)
    amplified: dict[str, Amplification] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Place:
    """The files of a run's adapter, before anything is loaded.

    Attributes:
        config: of the adapter; variant: the class that it names.
        run: None where there is the adapter alone.
    """

    name: str
    adapter: Path
    config: dict[str, Any]
    variant: type[BaseVariant]
    run: RunConfig | None

    @property
    def has_A(self) -> bool:
        """Whether its layers have a matrix A whose directions can be compared (LoRA and its subclasses)."""
        layer = self.variant.layer
        return isinstance(layer, type) and issubclass(layer, LoRALayer)

    @property
    def label(self) -> str:
        """Such as ``lora r=8 seed 0 (cola)``."""
        variant = self.variant
        size = f" {variant.size}={self.config['options'].get(variant.size)}" if variant.size else ""
        task = f" ({self.config['task']})" if self.config.get("task") else ""
        return f"{variant.name or variant.__name__}{size} seed {self.config.get('seed', 0)}{task}"


def find(name: str, results_dir: str | Path, which: str = "best", variant: str | None = None) -> Place:
    """Find a run's adapter.

    Args:
        name: a run's id under ``results_dir``, a run's folder, or an adapter folder.
        which: "best" or "last" adapter of a run.
        variant: ``FILE.py:CLASS`` of an adapter whose variant is not the project's.

    Raises:
        UserError, VariantError: there is no such adapter, or it is damaged.
    """
    folder = Path(name) if Path(name).is_dir() else Path(results_dir) / "runs" / name
    if not folder.is_dir():
        raise UserError(f"no run {name!r}: it is neither a folder nor an id under {Path(results_dir) / 'runs'}")
    adapter = folder if (folder / "adapter.json").is_file() else folder / which
    config, _ = read_adapter(adapter)
    run = adapter.absolute().parent
    record = RunConfig.read(str(run.parent.parent), run.name) if (run / "config.json").is_file() else None
    spec = config["variant"]
    given = None if known(spec) else variant  # of several runs that are compared, some may be of built-in methods
    cls = named_in(adapter, spec, config.get("code"), given)
    return Place(run.name if record else folder.resolve().name, adapter, config, cls, record)


def directions(place: Place, of: str, model: str | None = None) -> Directions:
    """Compute the directions of a run.

    Args:
        of: "A" (the paper's choice, for LoRA and its subclasses) or "delta" (ΔW, for every mergeable variant).
        model: its backbone, where it has been moved since; folder, Hub id or embedded.

    Raises:
        UserError, VariantError: the adapter has no ΔW, or ``model`` is not its backbone.
    """
    base, remark = _backbone(place, model)
    if remark and of == "delta":  # DoRA's, for one, depends on W
        raise UserError(f"{remark}; nor are there directions of ΔW")
    adapted = load(base, place.adapter, strict=True, variant=place.variant, quantised=True)
    if not adapted.layers or not adapted.variant.mergeable:
        raise UserError(f"{place.name}: {adapted.variant.name} adds no ΔW to weights, so there is nothing to compare")
    adapter = adapted.adapter
    adapted.deactivate()  # a variant that has subtracted its initial value from W restores W
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
    """ΔW (out, in) at a site: the whole change of the backbone's weight. The adapter must be inactive."""
    layer = adapter.layers[path]
    delta = layer.delta_weight().detach()
    if path in adapter.first:  # the initial value that it subtracted is part of the change
        delta = delta + adapter.reduced(path) - layer.site.weight().detach()
    return delta


def _backbone(place: Place, model: str | None) -> tuple[nn.Module, str]:
    """(the run's backbone, ""), or a stand-in of the right shapes and why."""
    from modules.backbones.loading import resolve as folder_of
    from modules.benchmarks.base import benchmark
    from variants.base_model import load_model, stand_in

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
    """(number of the block, place within it) of a site.

    ``roberta.encoder.layer.3.attention.self.query`` is (3, ``attention.self.query``).
    """
    return block_number(path) or 0, after_block(path)


def paths_by_kind(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths of sites by their place within a block, such as ``attention.self.query``."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(block_and_kind(path)[1], []).append(path)
    return found
