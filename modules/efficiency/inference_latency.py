"""Latency of inference with adapters, beside the papers' Table 1."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modules.paths import PUBLISHED as FIGURES
from variants.errors import UserError

PUBLISHED = FIGURES / "lora_table1.yaml"
PLAIN, COPY = "plain", "plain, a copy"
PAPER = "32x512x0.5M,16x256x11M,1x128x11M"
SMALL = "1x32x0.5M,1x32x11M,1x128x11M"


@dataclass(frozen=True)
class Setting:
    """A batch of texts of one length, and how many parameters each variant trains (None: its default size)."""

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


def build(name: str, device: str):
    """A model of random weights on ``device``, from a shape of parameters.yaml, a folder, "embedded", or a Hub id.

    Of a folder or Hub id only config.json is read.
    """
    from paper_repro import params

    shapes, _ = params.published()
    if name in shapes:
        return params.build(shapes[name], device)
    import torch
    import transformers

    from modules.backbones.loading import resolve
    from variants.errors import first_line

    try:
        config = transformers.AutoConfig.from_pretrained(resolve(name)[2] if name == "embedded" else name)
        causal = any("LMHead" in kind or "CausalLM" in kind for kind in config.architectures or [])
        auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
        with torch.device(device):
            return auto.from_config(config)
    except Exception as error:  # transformers raises a dozen kinds: the person needs one line
        raise UserError(
            f"--model {name!r} is no shape ({', '.join(shapes)}), folder or Hub id: {first_line(error)}"
        ) from None


def sized(spec: str, setting: Setting, shapes) -> Any:
    """The variant ``spec``, of the size that the setting's number of parameters picks on the meta model ``shapes``."""
    from variants.adapters.parameter_budget import fit, parse
    from variants.registry import resolve

    variant = resolve(spec)()
    if not setting.parameters or not variant.size:
        return variant
    return fit(shapes, variant, parse(setting.parameters))[0]


def twin(model):
    """The same modules once more over the very same weights."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def make_ways(plain, variants: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(model by way, trained parameters and size of each variant)."""
    import torch

    from variants import attach

    models, sizes = {PLAIN: plain, COPY: copy.deepcopy(plain)}, {}
    for name, variant in variants.items():
        merged = [True] if variant.mergeable and variant.layer else []
        for fold in (*merged, False):
            model = copy.deepcopy(plain) if fold else twin(plain)
            adapted = attach(model, variant)
            rng = torch.Generator().manual_seed(0)
            with torch.no_grad():  # away from the start: nothing is zero that training would not leave zero
                for parameter in {id(p): p for layer in adapted.layers for p in layer.parameters()}.values():
                    parameter += 0.01 * torch.randn(parameter.shape, generator=rng).to(parameter)
            if fold:
                adapted.merge()
            models[f"{name} merged" if fold else name] = model
            size = {variant.size: getattr(variant, variant.size)} if variant.size else {}
            sizes[name] = {"parameters": adapted.count()["adapter"], **size}
    return models, sizes


def measure(plain, shapes, specs: list[str], setting: Setting, rounds: int) -> dict[str, Any]:
    """The record of one setting: by way, the median in ms, the ratio to the plain model, and its quartiles."""
    import statistics

    import torch

    from modules.efficiency.timing import in_turn, ratios, synchronizer

    variants = {spec.rpartition(":")[2]: sized(spec, setting, shapes) for spec in specs}
    models, sizes = make_ways(plain, variants)
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
    """The paper's ratios by way, where it has this model and setting."""
    import yaml

    paper = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    setting = {key: record[key] for key in ("batch", "length", "parameters")}
    if model != paper["model"] or setting not in paper["settings"]:
        return {}
    column = paper["settings"].index(setting)
    return {row["way"]: row["ms"][column] / paper["rows"][0]["ms"][column] for row in paper["rows"]}


def as_text(model: str, record: dict[str, Any]) -> str:
    """One setting, a line for each way."""
    setting = Setting(*(record[key] for key in ("batch", "length", "parameters")))
    paper, lines = published(model, record), [f"{setting}: plain {record['ways'][PLAIN]['ms']:.2f} ms"]
    for name, way in record["ways"].items():
        if name == PLAIN:
            continue
        size = ", ".join(f"{k}={v}" for k, v in way.items() if k in ("r", "p"))
        low, high = way["quartiles"]
        beside = f"   paper {paper[name]:.3f}" if name in paper else ""
        lines.append(f"  {name:16} {size:6} {way['ratio']:.3f} [{low:.3f}, {high:.3f}]{beside}".rstrip())
    return "\n".join(lines)


def draw(path: Path, result: dict[str, Any]) -> None:
    """Ratios as points with their quartiles, a panel for each setting; the paper's as hollow diamonds."""
    from modules.reports.plots.image_files import saved_figure

    names = [name for name in result["settings"][0]["ways"] if name != PLAIN]
    rows = range(len(names))
    with saved_figure(path, 1.2 + 2.4 * len(result["settings"]), 0.9 + 0.27 * len(names)) as drawing:
        axes = drawing.subplots(1, len(result["settings"]), sharey=True, squeeze=False)[0]
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
        drawing.supxlabel(f"time / plain model   ({result['model']}, {result['dtype']}, {environment['device']})")


def redraw(path: Path) -> int:
    """Print and draw a result file that was written without figures, or elsewhere."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        print("\n".join(as_text(result["model"], record) for record in result["settings"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--draw {path}: no result file of this command: {error!r}") from None
    draw(path.with_suffix(""), result)
    print(f"written: {path.with_suffix('.png')} {path.with_suffix('.svg')}")
    return 0
