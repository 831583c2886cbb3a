"""``paper_repro/perplexity.py``: models one after another into one result file, its table and its picture."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modules.analysis.perplexity.measure import EMBEDDED, measured, rows_of, stream
from modules.analysis.perplexity.rounding import WAYS
from modules.backbones.loading import load_language_model
from modules.data.cache import digest
from modules.documents import read_json
from modules.embedded import FOLDERS
from modules.paths import PUBLISHED
from modules.pretraining.model_folder import pick_device
from modules.reports.plots.image_files import require_matplotlib, saved_figure
from modules.reports.tables.published import PublishedRow, load_table
from modules.reports.tables.significance import quantile
from modules.runs.environment import environment
from variants.atomic import write_atomic
from variants.errors import UserError
from variants.quantisation import bitsandbytes_maps

BASE = "bf16"
"""What the others are compared with."""
PAPER = "qlora-2"
COLUMN = "pile_cc"

ABOUT = """\
The linear maps of the blocks have the values that their codes stand for; embeddings, norms, the output embedding and
all products stay in {dtype}. Rows of {length} tokens, {rows}, do not overlap, and each of their tokens is
predicted from those before it in the row. × bf16: exp of the mean difference of the rows' losses, paired by row, with
its 95 % interval (Student's t). Off: ‖Q(W) - W‖ / ‖W‖ over all maps. Bits are those of a weight, scales included.
int4, fp4-e2m1 and fp4-e3m0 have absmax scales in blocks of 64, as the other 4-bit types have, and are for this table
alone; -dq: scales in 8 bits. Inputs are not rounded, which int8 does on a GPU."""


class Compared(NamedTuple):
    """A perplexity as a share of bf16's on the same rows: estimate and 95 % interval."""

    ratio: float
    low: float
    high: float


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, and write file, table and picture. Returns the exit code.

    Raises:
        UserError: a flag names nothing that there is, or the result file is of something else.
    """
    if unknown := [way for way in options.quantise if way not in WAYS]:
        raise UserError(f"--quantise: unknown {unknown[0]!r}; there are {', '.join(WAYS)}")
    embedded = options.text == "embedded"
    length = (128 if embedded else 1024) if options.length is None else options.length
    rows = 1 if options.rows is None else options.rows
    for name, value in (("length", length), ("batch_size", options.batch_size), ("rows", rows)):
        if value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    if not options.no_plots:
        require_matplotlib()
    if any(way not in ("bf16", "fp16") for way in options.quantise):
        bitsandbytes_maps()
    text = "embedded" if embedded else Path(options.text).name.partition(".")[0]
    words = [text, str(length), *([f"{options.rows}-rows"] if options.rows else []), options.dtype]
    path = options.out / ("-".join(words) + ".json")
    result = _begun(path, {"text": text, "length": length, "rows": options.rows, "dtype": options.dtype})
    device = pick_device(options.device or "auto")
    for spec in options.model:
        _measure(options, spec, length, device, result, path)
    _write(path, result, not options.no_plots)
    return 0


def _begun(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The result file so far. Raises UserError where it is none of this command with these settings."""
    if not path.is_file():
        return settings | {"models": {}}
    found = read_json(path)
    if not isinstance(found, dict) or {key: found.get(key) for key in settings} != settings or "models" not in found:
        raise UserError(f"{path} is not a result file of this command: move it away, or choose another --out")
    return found


def _measure(
    options: argparse.Namespace, spec: str, length: int, device: torch.device, result: dict[str, Any], path: Path
) -> None:
    """Measure a model in the ways that the file lacks; the file is written after each."""
    model, tokenizer, backbone = load_language_model(spec, (EMBEDDED[0], FOLDERS[EMBEDDED[0]]))
    if backbone.max_length and length > backbone.max_length:
        raise UserError(f"--length {length}: {spec} has {backbone.max_length} positions")
    rows = rows_of(stream(backbone.name, options.text, tokenizer), length, options.rows)
    about = {
        "hash": backbone.hash,
        "rows_hash": digest(rows.numpy().tobytes()),
        "tokens": rows.shape[0] * length,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    own = result["models"].setdefault(backbone.name, about | {"ways": {}})
    if changed := [key for key in ("hash", "rows_hash") if own[key] != about[key]]:
        what = "weights" if changed[0] == "hash" else "text or tokenizer"
        raise UserError(f"{path} has {backbone.name} with other {what}: move it away, or choose another --out")
    missing = [way for way in options.quantise if way not in own["ways"]]
    print(
        f"{backbone.name}: {about['tokens']:,} tokens, {len(missing)} of {len(options.quantise)} to measure", flush=True
    )
    for way, record in measured(model.to(device), rows, missing, getattr(torch, options.dtype), options.batch_size):
        own["ways"][way] = record | {"environment": environment(str(device))}
        write_atomic(path, json.dumps(result, indent=1) + "\n")
        print(f"  {way:9} {perplexity(record):.3f}", flush=True)


def perplexity(record: Mapping[str, Any]) -> float:
    """exp of the mean loss of a token; infinite where that is too large for a number."""
    mean = statistics.fmean(record["losses"])
    return math.exp(mean) if mean < 700 else math.inf


def compared(ways: Mapping[str, Any], way: str) -> Compared | None:
    """A way against `BASE`, paired by row; None where one of them is missing or there is a single row."""
    if way == BASE or BASE not in ways or way not in ways or len(ways[way]["losses"]) < 2:
        return None
    pairs = [one - other for one, other in zip(ways[way]["losses"], ways[BASE]["losses"], strict=True)]
    mean = statistics.fmean(pairs)
    half = quantile(0.05, len(pairs) - 1) * statistics.stdev(pairs) / len(pairs) ** 0.5
    return Compared(*(math.exp(value) for value in (mean, mean - half, mean + half)))


def _write(path: Path, result: dict[str, Any], plots: bool) -> None:
    text = markdown(result)
    write_atomic(path.with_suffix(".md"), text)
    files = [path, path.with_suffix(".md")]
    if plots:
        draw(path.with_suffix(""), result)
        files += [path.with_suffix(".png"), path.with_suffix(".svg")]
    print(f"\n{text}\nwritten:", *files)


# ---- table and picture --------------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any]) -> str:
    """The tables of a result file: one for each model, their mean where they have read the same text, the paper's."""
    models = result["models"]
    rows = f"{result['rows']} of them spread evenly over the text" if result["rows"] else "all of the text"
    lines = [f"# Perplexity with weights in few bits: {result['text']}", ""]
    lines += [ABOUT.format(dtype=result["dtype"], length=result["length"], rows=rows), ""]
    for name, model in models.items():
        devices = sorted({record["environment"]["device"] for record in model["ways"].values()})
        lines += [f"**{name}**, {model['parameters'] / 1e6:.1f}M parameters, {model['tokens']:,} tokens, "
                  f"on {', '.join(devices)}", ""]  # fmt: skip
        lines += ["| weights | bits | perplexity | × bf16 | off |", "|---|---|---|---|---|"]
        for way in _ways(result):
            if record := model["ways"].get(way):
                against = compared(model["ways"], way)
                share = f"{against.ratio:.4f} [{against.low:.4f}, {against.high:.4f}]" if against else ""
                lines.append(f"| {way} | {record['bits']:.4g} | {perplexity(record):.3f} | {share} | "
                             f"{record['relative_error']:.2%} |")  # fmt: skip
        lines.append("")
    if len(models) > 1 and result["text"] != "embedded":
        lines += [f"**Mean of the {len(models)} models**, the form of the paper's table", ""]
        lines += ["| weights | mean perplexity |", "|---|---|"]
        for way in _ways(result):
            if all(way in model["ways"] for model in models.values()):
                mean = statistics.fmean(perplexity(model["ways"][way]) for model in models.values())
                lines.append(f"| {way} | {mean:.3f} |")
        lines.append("")
    paper = published()
    lines += [f"**{paper[0].source}** ({paper[0].model}; {paper[0].split}): other models, another text", ""]
    lines += ["| weights | mean perplexity |", "|---|---|"]
    lines += [f"| {row.method} | {row.scores[COLUMN]} |" for row in paper]
    return "\n".join(lines) + "\n"


def published() -> Sequence[PublishedRow]:
    """The rows of QLoRA's Table 2; their option `quantise` is the way here."""
    return load_table(PUBLISHED, PAPER)


def _ways(result: Mapping[str, Any]) -> list[str]:
    return [way for way in WAYS if any(way in model["ways"] for model in result["models"].values())]


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """Write perplexities as shares of bf16's, a panel for each model, and the paper's mean perplexities in a panel of
    their own, as ``path``.png and ``path``.svg."""
    ways = [way for way in _ways(result) if way != BASE]
    models = {name: model["ways"] for name, model in result["models"].items() if compared_ways(model["ways"])}
    paper = {str(row.options["quantise"]): row.scores[COLUMN] for row in published()}
    with saved_figure(path, 2.2 + 2.3 * (len(models) + 1), 1.2 + 0.22 * len(ways)) as figure:
        axes = figure.subplots(1, len(models) + 1, sharey=True, squeeze=False)[0]
        for axis, (name, records) in zip(axes, models.items(), strict=False):
            found = {way: compared(records, way) for way in ways if way in compared_ways(records)}
            places = [ways.index(way) for way in found]
            axis.axvline(1, color="0.7", linewidth=0.8)
            axis.hlines(
                places, [c.low for c in found.values()], [c.high for c in found.values()], color="C0", linewidth=2
            )
            axis.plot([c.ratio for c in found.values()], places, "o", color="C0", markersize=4)
            axis.set_title(f"{name}\n{result['text']}, {result['models'][name]['tokens']:,} tokens")
            axis.set_xlabel("perplexity / bf16's")
        shown = {way: value for way, value in paper.items() if way in ways}
        axes[-1].plot(list(shown.values()), [ways.index(way) for way in shown], "D", color="C1", fillstyle="none")
        axes[-1].set_title(f"{published()[0].source}\nother models, another text")
        axes[-1].set_xlabel("mean perplexity")
        for axis in axes:
            axis.locator_params(axis="x", nbins=4)
            axis.grid(axis="x", color="0.9", linewidth=0.5)
        axes[0].set_yticks(range(len(ways)), ways)
        axes[0].invert_yaxis()


def compared_ways(ways: Mapping[str, Any]) -> list[str]:
    """The ways of a model that can be compared."""
    return [way for way in ways if compared(ways, way)]
