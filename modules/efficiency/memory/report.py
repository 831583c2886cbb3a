"""``paper_repro/memory.py``: shapes one after another into one result file, and its table."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from modules.documents import read_json
from modules.efficiency.memory.measure import GB, measure
from modules.efficiency.memory.shapes import SHAPES
from modules.efficiency.result_file import slug
from modules.runs.environment import environment
from variants.atomic import write_atomic
from variants.errors import UserError

PARTS = ("base", "adapter", "gradients", "optimizer", "activations")
FULL = 16
"""Bytes a parameter of full fine-tuning in 16 bits: weight and gradient in 16, master weight and two moments in 32."""

ABOUT = """\
Random weights of published shapes, LoRA on all linear maps (GPT-3's: on q and v), one row, gradient checkpointing, real
steps. GB are 10⁹ bytes. Base, adapter, gradients and optimizer are the bytes of their tensors, the peak is the
allocator's, and activations are what is left of it; a paged optimizer's state may lie in the host's memory and is not
taken off. Bits are those of the packed maps, scales included. 16-bit weights and full fine-tuning (16 bytes a
parameter) are arithmetic. The last column is what the papers say."""


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, and write file and table. Returns the exit code.

    Raises:
        UserError: a flag names nothing that there is, or there is no GPU that it names.
    """
    if unknown := [name for name in options.shapes if name not in SHAPES]:
        raise UserError(f"--shapes: unknown {unknown[0]!r}; there are {', '.join(SHAPES)}")
    device = torch.device(options.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU that torch can use; take --device cpu")
    if device.type == "cpu" and (large := [name for name in options.shapes if name != "tiny"]):
        raise UserError(f"--shapes {large[0]} is for a GPU, whose memory is measured; on a CPU take tiny")
    if device.type == "cpu" and options.optimizer != "adamw":
        raise UserError(f"--optimizer {options.optimizer} pages a GPU's memory: on a CPU take adamw")
    about = environment(str(device))
    path = options.out / f"memory-{slug(about['device'], device.type)}.json"
    rows: dict[str, Any] = (read_json(path) or {}).get("rows", {}) if path.is_file() else {}
    for name in options.shapes:
        row = {
            "shape": name,
            "scheme": options.quantise,
            "optimizer": options.optimizer,
            "tokens": options.tokens,
        }
        key = " ".join(str(value) for value in (*row.values(), options.cap, options.reference and "reference") if value)
        if key in rows and "failed" not in rows[key]:
            print(f"{key}: measured before")
            continue
        shape, steps = SHAPES[name], options.steps
        try:
            found = measure(
                shape,
                options.quantise,
                device,
                options.optimizer,
                options.tokens,
                steps,
                options.cap,
                options.reference,
            )
        except torch.OutOfMemoryError:
            found = {"failed": "out of memory"}
        rows[key] = row | {"cap_gb": options.cap, "environment": about} | found
        write_atomic(path, json.dumps({"rows": rows}, indent=1) + "\n")
    text = markdown(rows)
    write_atomic(path.with_suffix(".md"), text)
    print(f"\n{text}\nwritten: {path} {path.with_suffix('.md')}")
    return 0


def markdown(rows: dict[str, Any]) -> str:
    """The table of a result file."""
    devices = sorted({row["environment"]["device"] for row in rows.values()})
    head = ["shape", "scheme", "optimizer", "tokens", "parameters", "bits", *PARTS, "peak", "cap", "step, s"]
    head += ["16-bit weights", "16-bit full", "paper"]
    lines = [f"# Memory of training on a base in few bits: {', '.join(devices)}", "", ABOUT, ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows.values():
        shape = SHAPES[row["shape"]]
        cells = [shape.title, row["scheme"], row["optimizer"], str(row["tokens"])]
        if "failed" in row:
            cells += ["", "", *[""] * len(PARTS), row["failed"], _gb(row["cap_gb"]), "", "", "", shape.paper]
        else:
            cells += [f"{row['parameters'] / 1e9:.2f}B", f"{row['bits_per_parameter']:.3f}"]
            cells += [_gb(row["parts"].get(part)) for part in PARTS]
            cells += [_gb(row.get("peak")), _gb(row["cap_gb"]), f"{row['step_s']:.2f}"]
            cells += [_gb(2 * row["parameters"] / GB), _gb(FULL * row["parameters"] / GB), shape.paper]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _gb(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
