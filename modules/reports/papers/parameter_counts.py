"""Published counts of parameters, compared with counts of the models that this project builds."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.backbones.model_config import check_sizes
from modules.paths import PUBLISHED as FOLDER
from modules.reports.tables.published import load_parameters
from modules.reports.tables.published_files import Model, PrintedCount
from variants.errors import UserError, first_line

PUBLISHED = FOLDER / "parameters.yaml"
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}
TRAINED_BYTES = 4
"""fp32: a trained weight, its gradient, and each of Adam's two states."""


@dataclass(frozen=True, kw_only=True)
class CountedRow(PrintedCount):
    """A printed number of parameters and our count of it.

    Attributes:
        counted: trained parameters without the head (for full fine-tuning: with it); None where ``variant`` is.
        head, total: parameters of the task head, and of model and adapter together.
        follows: the count rounds to the print.
        bytes: weights of the whole model, gradients, Adam's states, and the adapter file, head included.
    """

    counted: int | None = None
    head: int | None = None
    total: int | None = None
    follows: bool | None = None
    bytes: dict[str, int] = field(default_factory=dict)


def published_counts() -> tuple[dict[str, Model], list[CountedRow]]:
    """(models by name, rows) of parameters.yaml; nothing is counted yet."""
    content = load_parameters(FOLDER)
    return content.models, [CountedRow(**vars(row)) for row in content.rows]


def build_model(spec: Model, device: str = "meta"):
    """A model of parameters.yaml; on the meta device it has shapes alone, on any other random weights.

    Raises:
        UserError: transformers has no such class, or it cannot be built of the configuration.
    """
    import torch
    import transformers

    name = spec.get("class")
    check_sizes(spec["config"], f"{PUBLISHED.name}: {name}")
    try:
        model_class = getattr(transformers, name)
        with torch.device(device):
            return model_class(model_class.config_class(**spec["config"]))
    except Exception as error:  # of any of a hundred classes
        raise UserError(f"{PUBLISHED.name}: the model {name!r} cannot be built: {first_line(error)}") from error


def count(row: CountedRow, model, weight_bytes: int = 4) -> CountedRow:
    """``row`` with the parameters that its variant trains on ``model``.

    Args:
        weight_bytes: of a frozen weight (4: fp32, 2: bf16).
    """
    import torch

    from variants import attach, resolve

    if row.variant is None:
        return row
    with torch.device("meta"):  # no memory for the adapters of a large model either
        head = [] if hasattr(model, "lm_head") else None  # a language model's head is not a task's: it stays frozen
        adapted = attach(model, resolve(row.variant)(**row.options), head=head)
    counts = adapted.count()
    trained = counts["adapter"] + counts["head"]
    counted = trained if row.variant == "full" else counts["adapter"]
    sizes = {
        "weights": weight_bytes * (counts["total"] - trained + _frozen(adapted.layers)) + TRAINED_BYTES * trained,
        "gradients": TRAINED_BYTES * trained,
        "adam": 2 * TRAINED_BYTES * trained,
        "file": file_bytes(_in_file(adapted)),
    }
    adapted.deactivate()
    follows = rounds_to(counted, row.printed, counts["total"])
    numbers = {"counted": counted, "head": counts["head"], "total": counts["total"], "follows": follows}
    return dataclasses.replace(row, **numbers, bytes=sizes)


def _frozen(layers: Sequence) -> int:
    """Number of frozen values in the layers, such as VeRA's shared matrices."""
    return sum(b.numel() for b in {id(b): b for layer in layers for b in layer.buffers()}.values())


def _in_file(adapted) -> dict[str, Any]:
    """Tensors of the adapter file before training; AdaLoRA's file may become smaller as its ranks fall."""
    from variants import AdapterLayer

    layers = adapted.adapter.layers.items()
    tensors = {f"{path}.{name}": t for path, layer in layers for name, t in AdapterLayer.trimmed(layer).items()}
    once = {id(tensor): (name, tensor) for name, tensor in reversed(tensors.items())}
    return dict(once.values()) | {name: t for name, t in adapted.trained().items() if name in adapted.adapter.in_place}


def printed_value(text: str) -> tuple[float, float]:
    """(value, half of the last printed digit) of a print such as ``0.35M``, ``175,255.8M`` or ``0.83%``."""
    number, unit = re.fullmatch(r"([\d.,]+)([KMB%]?)", text).groups()
    number = number.replace(",", "")
    scale = 0.01 if unit == "%" else UNITS.get(unit, 1)
    return float(number) * scale, 0.5 * 10.0 ** -len(number.partition(".")[2]) * scale


def rounds_to(counted: int, text: str, total: int) -> bool:
    """Whether ``counted`` rounds to the print; a print in percent is a share of ``total`` parameters."""
    value, half = printed_value(text)
    found = counted / total if text.endswith("%") else counted
    return abs(found - value) <= half * (1 + 1e-9)


def file_bytes(tensors: dict[str, Any]) -> int:
    """Size of a safetensors file of fp32 tensors: 8 bytes, a JSON header padded to a multiple of 8, the values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"))
    return 8 + math.ceil(len(text.encode()) / 8) * 8 + end


def human(number: float, base: int = 1000, suffix: str = "") -> str:
    """Three digits and a unit, such as ``1.18M``."""
    for unit in ("", "K", "M", "G", "T"):
        if number < base or unit == "T":
            return f"{number:.3g}{unit}{suffix}" if unit else f"{number:g}{suffix}"
        number /= base
    raise AssertionError


def chosen_rows(rows: list[CountedRow], model: str | None, table: str | None) -> list[CountedRow]:
    """The rows of a model, and of tables with ``table`` in their name. Raises UserError where there are none."""
    known = dict.fromkeys(row.model for row in rows)
    if model and model not in known:
        raise UserError(f"--model {model!r} is none of {', '.join(known)}")
    chosen = [row for row in rows if not model or row.model == model]
    if table:
        chosen = [row for row in chosen if any(table in name for name in (row.table, *row.also))]
    if not chosen:
        raise UserError(f"no row is of --table {table!r}; see {PUBLISHED}")
    return chosen


def count_all(models: dict[str, dict[str, Any]], rows: list[CountedRow], weight_bytes: int = 4) -> list[CountedRow]:
    """All rows counted, each model built once."""
    built = {name: build_model(models[name]) for name in dict.fromkeys(row.model for row in rows)}
    return [count(row, built[row.model], weight_bytes) for row in rows]


def as_text(rows: list[CountedRow], remarks: bool) -> str:
    """The rows as a table, with a summary as the last line.

    Args:
        remarks: print also the remarks of rows whose count follows the print.
    """
    head = ("model", "method", "printed", "counted", "", "weights", "gradients", "Adam", "file", "arithmetic", "table")
    lines = [head]
    for row in rows:
        known = row.counted is not None
        mark = "" if not known else "=" if row.follows else "≠"
        share = f" = {row.counted / row.total:.3%}" if known and row.printed.endswith("%") else ""
        sizes = [human(row.bytes[k], suffix="B") if known else "" for k in ("weights", "gradients", "adam", "file")]
        counted = f"{row.counted:,}{share}" if known else "not counted"
        lines.append((row.model, row.method, row.printed, counted, mark, *sizes, row.arithmetic, row.table))
    wide = [max(len(line[i]) for line in lines) for i in range(len(head))]
    right = {2, 3, 5, 6, 7, 8}
    shown = []
    for number, line in enumerate(lines):
        cells = [cell.rjust(wide[i]) if i in right else cell.ljust(wide[i]) for i, cell in enumerate(line)]
        shown.append("  ".join(cells).rstrip())
        row = rows[number - 1] if number else None
        if row and row.remark and (remarks or row.follows is False):
            shown.append(f"    {row.remark}")
    following = sum(row.follows is True for row in rows)
    off = sum(row.follows is False for row in rows)
    absent = len(rows) - following - off
    shown.append(f"\n{len(rows)} rows: {following} follow (=), {off} do not and say why (≠), {absent} are not counted")
    return "\n".join(shown)
