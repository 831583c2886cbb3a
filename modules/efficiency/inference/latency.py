"""Latency of inference with adapters, compared with the LoRA paper's Table 1.

It measures the plain forward pass of an adapted model: acceleration is for training alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modules.documents import read_json
from modules.efficiency.inference.timing import in_turn, ratios, synchronizer
from modules.paths import PUBLISHED as FOLDER
from modules.reports.papers import parameter_counts
from modules.reports.plots.image_files import require_matplotlib, saved_figure
from modules.reports.tables.published import load_latency
from modules.runs.environment import environment
from variants import attach
from variants.atomic import write_atomic
from variants.errors import UserError, first_line
from variants.parameter_budget import fit, parse
from variants.registry import resolve

PUBLISHED = FOLDER / "lora_table1.yaml"
"""The paper's figures."""
PLAIN, COPY = "plain", "plain, a copy"
"""Names of the model without an adapter, and of the same in other memory."""
PAPER = "32x512x0.5M,16x256x11M,1x128x11M"
"""Settings of the paper."""
SMALL = "1x32x0.5M,1x32x11M,1x128x11M"
"""Settings for a CPU."""


@dataclass(frozen=True)
class Setting:
    """A batch of texts of equal length, and the trained parameters of each variant (None: its default size)."""

    batch: int
    length: int
    parameters: str | None

    @classmethod
    def read(cls, text: str) -> Setting:
        """From ``32x512x0.5M`` or ``32x512``."""
        found = re.fullmatch(r"(\d+)x(\d+)(?:x([\d.]+[KMB]?))?", text.strip(), re.IGNORECASE)
        if not found or not int(found[1]) * int(found[2]):
            raise UserError(f"--settings wants BATCHxLENGTHxPARAMETERS such as 32x512x0.5M, not {text.strip()!r}")
        return cls(int(found[1]), int(found[2]), found[3])

    def __str__(self) -> str:
        sized = f", {self.parameters} trained" if self.parameters else ""
        return f"{self.batch} x {self.length} tokens{sized}"


def build(name: str, device: str) -> nn.Module:
    """A model of random weights on ``device``, from a shape of parameters.yaml, a folder, "embedded", or a Hub id.

    Of a folder or Hub id only config.json is read.

    Raises:
        UserError: it is none of these.
    """
    shapes, _ = parameter_counts.published_counts()
    if name in shapes:
        return parameter_counts.build_model(shapes[name], device)
    import transformers

    from modules.backbones.loading import resolve as resolve_backbone

    try:
        config = transformers.AutoConfig.from_pretrained(
            resolve_backbone(name)[2] if name == "embedded" else name, trust_remote_code=False
        )
        causal = any("LMHead" in kind or "CausalLM" in kind for kind in config.architectures or [])
        auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
        with torch.device(device):
            return auto.from_config(config)
    except Exception as error:  # transformers raises a dozen kinds
        raise UserError(
            f"--model {name!r} is no shape ({', '.join(shapes)}), folder or Hub id: {first_line(error)}"
        ) from None


def sized(spec: str, setting: Setting, shapes: nn.Module) -> Any:
    """The variant ``spec`` of the size nearest to the setting's number of parameters on the meta model ``shapes``."""
    variant = resolve(spec)()
    if not setting.parameters or not variant.size:
        return variant
    return fit(shapes, variant, parse(setting.parameters))[0]


def twin(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares the weights."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def adapted_models(
    plain: nn.Module, variants: dict[str, Any]
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """(models by name: plain, a copy, each variant merged and not; trained parameters and size of each variant)."""
    models, sizes = {PLAIN: plain, COPY: copy.deepcopy(plain)}, {}
    for name, variant in variants.items():
        for merge in (True, False) if variant.mergeable and variant.layer else (False,):
            model = copy.deepcopy(plain) if merge else twin(plain)
            adapted = attach(model, variant)
            rng = torch.Generator().manual_seed(0)
            with torch.no_grad():  # away from the start, where some tensors are zero
                for parameter in {id(p): p for layer in adapted.layers for p in layer.parameters()}.values():
                    parameter += 0.01 * torch.randn(parameter.shape, generator=rng).to(parameter)
            if merge:
                adapted.merge()
            models[f"{name} merged" if merge else name] = model
            size = {variant.size: getattr(variant, variant.size)} if variant.size else {}
            sizes[name] = {"parameters": adapted.count()["adapter"], **size}
    return models, sizes


def measure(plain: nn.Module, shapes: nn.Module, specs: Sequence[str], setting: Setting, rounds: int) -> dict[str, Any]:
    """The record of a setting: for each model the median in ms, its ratio to the plain model, and the quartiles."""
    variants = {spec.rpartition(":")[2]: sized(spec, setting, shapes) for spec in specs}
    models, sizes = adapted_models(plain, variants)
    device = next(plain.parameters()).device
    vocabulary = plain.get_input_embeddings().weight.shape[0]
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (setting.batch, setting.length), generator=rng).to(device)
    with torch.inference_mode():
        ways = {name: lambda model=model: model(input_ids=ids) for name, model in models.items()}
        seconds = in_turn(ways, rounds, synchronize=synchronizer(str(device)))
    found = ratios(seconds, PLAIN)
    return asdict(setting) | {
        "ways": {
            name: {
                "ms": round(1000 * statistics.median(times), 4),
                "ratio": round(found[name].median, 4),
                "quartiles": [round(found[name].low, 4), round(found[name].high, 4)],
            }
            | sizes.get(name, {})
            for name, times in seconds.items()
        }
    }


def published(model: str, record: dict[str, Any]) -> dict[str, float]:
    """The paper's ratios by name; {} where it has no such model and setting."""
    paper = load_latency(PUBLISHED)
    setting = {key: record[key] for key in ("batch", "length", "parameters")}
    if model != paper.model or setting not in paper.settings:
        return {}
    column = paper.settings.index(setting)
    return {row.way: row.ms[column] / paper.rows[0].ms[column] for row in paper.rows}


def as_text(model: str, record: dict[str, Any]) -> str:
    """A setting as text, with a line for each model."""
    setting = Setting(*(record[key] for key in ("batch", "length", "parameters")))
    paper, lines = published(model, record), [f"{setting}: plain {record['ways'][PLAIN]['ms']:.2f} ms"]
    for name, way in record["ways"].items():
        if name == PLAIN:
            continue
        size = ", ".join(f"{k}={v}" for k, v in way.items() if k in ("r", "p"))
        low, high = way["quartiles"]
        printed = f"   paper {paper[name]:.3f}" if name in paper else ""
        lines.append(f"  {name:16} {size:6} {way['ratio']:.3f} [{low:.3f}, {high:.3f}]{printed}".rstrip())
    return "\n".join(lines)


def draw(path: Path, result: dict[str, Any]) -> None:
    """Write ratios with their quartiles as ``path``.png and ``path``.svg, with a panel for each setting.

    The paper's ratios are hollow diamonds.
    """
    names = [name for name in result["settings"][0]["ways"] if name != PLAIN]
    rows = range(len(names))
    with saved_figure(path, 1.2 + 2.4 * len(result["settings"]), 0.9 + 0.27 * len(names)) as figure:
        axes = figure.subplots(1, len(result["settings"]), sharey=True, squeeze=False)[0]
        for axis, record in zip(axes, result["settings"], strict=True):
            ways, paper = record["ways"], published(result["model"], record)
            axis.axvline(1, color="0.7", linewidth=0.8)
            axis.hlines(rows, *zip(*(ways[name]["quartiles"] for name in names), strict=True), color="C0", linewidth=2)
            axis.plot([ways[name]["ratio"] for name in names], rows, "o", color="C0", markersize=4, label="measured")
            printed = [(paper[name], row) for row, name in zip(rows, names, strict=True) if name in paper]
            if printed:
                axis.plot(*zip(*printed, strict=True), "D", color="C1", fillstyle="none", label="LoRA paper, Table 1")
                axis.legend(fontsize=6, loc="upper right")
            setting = Setting(*(record[key] for key in ("batch", "length", "parameters")))
            axis.set_title(str(setting).replace(" tokens, ", " tokens\n"))
            axis.grid(axis="x", color="0.9", linewidth=0.5)
        axes[0].set_yticks(list(rows), names)
        axes[0].invert_yaxis()
        environment = result["environment"]
        figure.supxlabel(f"time / plain model   ({result['model']}, {result['dtype']}, {environment['device']})")


def redraw(path: Path) -> int:
    """Print and draw a result file again. Returns the exit code.

    Raises:
        UserError: it is no result file of this command.
    """
    try:
        result = read_json(path)
        print("\n".join(as_text(result["model"], record) for record in result["settings"]))
        draw(path.with_suffix(""), result)
    except (UserError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"--draw {path}: no result file of this command: {first_line(error)}") from None
    print(f"written: {path.with_suffix('.png')} {path.with_suffix('.svg')}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Measure by the flags of `paper_repro/latency.py`, and write result file and figure. Returns the exit code.

    Raises:
        UserError: a flag names nothing that there is.
    """
    if options.draw:
        return redraw(options.draw)
    gpu = options.device.startswith("cuda")
    settings = [Setting.read(part) for part in (options.settings or (PAPER if gpu else SMALL)).split(",")]
    rounds = (100 if gpu else 12) if options.rounds is None else options.rounds
    if rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {rounds}")
    specs = options.variants.split(",")
    if not options.no_plots:
        require_matplotlib()
    shapes = _checked(options, settings, specs)
    torch.manual_seed(0)
    plain = build(options.model, options.device).to(getattr(torch, options.dtype)).eval().requires_grad_(False)
    plain.config.use_cache = False  # a single pass needs no cache
    result: dict[str, Any] = {"model": options.model, "dtype": options.dtype, "rounds": rounds}
    result |= {"threads": torch.get_num_threads(), "settings": []}
    for setting in settings:
        record = measure(plain, shapes, specs, setting, rounds)
        result["settings"].append(record)
        print(as_text(options.model, record), flush=True)
    result["environment"] = environment(options.device)
    words = [options.model, options.device.partition(":")[0], *([options.dtype] if options.dtype != "float32" else [])]
    path = options.out / re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(words)).strip("-")
    write_atomic(path.with_name(f"{path.name}.json"), json.dumps(result, indent=1) + "\n")
    if not options.no_plots:
        draw(path, result)
    print(f"written: {path}.json" + ("" if options.no_plots else f" {path}.png {path}.svg"))
    return 0


def _checked(options: argparse.Namespace, settings: Sequence[Setting], specs: Sequence[str]) -> nn.Module:
    """The model without weights, after a check of everything that can be wrong before the long part."""
    synchronizer(options.device)
    shapes = build(options.model, "meta")
    longest = getattr(shapes.config, "max_position_embeddings", None)
    for setting in settings:
        if longest and setting.length > longest:
            raise UserError(f"--settings: {options.model} has {longest} positions, fewer than {setting.length}")
        for spec in specs:
            sized(spec, setting, shapes)
    return shapes
