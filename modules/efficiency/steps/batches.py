"""Batches of fixed shape or of real lengths, padded and packed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.data import module
from modules.data.packing import Layout
from modules.data.padding import EDGES
from modules.efficiency.steps.backbones import Batch, is_language_model
from variants.sites.architectures import ARCHITECTURES

LENGTHS = Path(__file__).with_name("lengths.json")
"""Histograms of row lengths, made by ``python -m modules.efficiency.row_lengths``."""
PACKED = {"packed": module.MULTIPLE, "each": module.MULTIPLE_OF_MANY}
"""Kinds of packed batches, for a single adapter and for several, with the multiples that their lengths have: a
classifier's batch has their parts as ``packed.input_ids`` and so on, in addition to the padded ones."""
MULTIPLE = 128
"""Target tokens of a language model's batch come in multiples of this, as in training."""


@dataclass
class Lengths:
    """A histogram of row lengths.

    Attributes:
        tokens, counts: lengths of rows and how many rows have them.
        targets: target tokens of a row of each length (language models).
    """

    tokens: np.ndarray
    counts: np.ndarray
    targets: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def draw(self, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(lengths, targets) of ``rows`` rows."""
        picks = rng.choice(len(self.tokens), rows, p=self.counts / self.counts.sum())
        return self.tokens[picks], (self.targets[picks] if len(self.targets) else self.tokens[picks] // 2)


def table(name: str) -> dict[str, Lengths]:
    """The histograms of ``glue`` (one for each task) or ``e2e``."""
    tables = json.loads(LENGTHS.read_text(encoding="utf-8"))[name]["rows"]
    return {task: Lengths(*(np.asarray(column) for column in zip(*rows, strict=True))) for task, rows in tables.items()}


def fixed_batches(config: dict[str, Any], rows: int, width: int, device: torch.device, count: int = 1) -> list[Batch]:
    """Batches of rows x width: the first row is full, the others have from half of the width to all of it."""
    rng = np.random.default_rng(0)
    lengths = [np.concatenate([[width], rng.integers(max(3, width // 2), width + 1, rows - 1)]) for _ in range(count)]
    return [_batch(config, n, n // 2, width, rng, device) for n in lengths]


def full_batches(config: dict[str, Any], rows: int, width: int, device: torch.device, count: int = 1) -> list[Batch]:
    """Batches of a decoder: rows x width tokens without padding, each but the first of a row a target."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        ids = torch.from_numpy(rng.integers(5, config.get("vocab_size", 32000), (rows, width)))
        after_first = torch.arange(width).expand(rows, width) > 0
        found.append({"input_ids": ids, **_targets(ids, after_first)})
    return [{name: part.to(device) for name, part in batch.items()} for batch in found]


def positions(config: dict[str, Any]) -> int:
    """Number of tokens that a row may have."""
    import transformers

    full = transformers.AutoConfig.for_model(**config)
    return full.max_position_embeddings - ARCHITECTURES[full.model_type].first_position(full)


def drawn_batches(config: dict[str, Any], rows: int, name: str, device: torch.device, count: int) -> list[Batch]:
    """Batches of real lengths, padded to the first of EDGES that the longest row fits in; the tasks take turns.

    Rows with more tokens than the backbone has positions are cut.

    Args:
        name: of the table, glue or e2e.
    """
    longest = max(edge for edge in EDGES if edge <= positions(config))
    rng, batches = np.random.default_rng(0), []
    tables = list(table(name).values())
    for index in range(count):
        lengths, targets = tables[index % len(tables)].draw(rows, rng)
        lengths = lengths.clip(3, longest)
        width = EDGES[np.searchsorted(EDGES, lengths.max())]
        batches.append(_batch(config, lengths, targets.clip(1, lengths - 1), width, rng, device))
    return batches


def _batch(
    config: dict[str, Any],
    lengths: np.ndarray,
    targets: np.ndarray,
    width: int,
    rng: np.random.Generator,
    device: torch.device,
) -> Batch:
    ids = torch.from_numpy(rng.integers(5, config.get("vocab_size", 50257), (len(lengths), width)))
    place, length = torch.arange(width), torch.from_numpy(np.asarray(lengths, np.int64))[:, None]
    mask = place < length
    ids = ids.where(mask, torch.tensor(config.get("pad_token_id") or 0))
    batch = {"input_ids": ids, "attention_mask": mask.long()}
    if is_language_model(config):
        batch |= _targets(ids, mask & (place >= length - torch.from_numpy(np.asarray(targets, np.int64))[:, None]))
    else:
        for kind, multiple in PACKED.items():
            layout = Layout.of(np.asarray(lengths)[None], multiple if device.type == "cuda" else 1)
            batch |= {f"{kind}.{name}": part for name, part in _packed(config["pad_token_id"], ids[mask], layout)}
        batch["labels"] = torch.from_numpy(rng.integers(0, 2, len(lengths)))
    return {name: part.to(device) for name, part in batch.items()}


def _targets(ids: Tensor, chosen: Tensor) -> Batch:
    rows, columns = chosen.nonzero(as_tuple=True)
    filler = (0, -len(rows) % MULTIPLE)
    return {
        "positions": F.pad(rows * ids.shape[1] + columns - 1, filler),
        "targets": F.pad(ids[chosen], filler),
        "weights": F.pad(torch.full((len(rows),), 1 / len(rows)), filler),
    }


def _packed(pad_id: int, tokens: Tensor, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    yield "input_ids", layout.spread(tokens.numpy(), pad_id)
    yield "position_ids", layout.spread(layout.positions + pad_id + 1, pad_id + 1)
    yield "starts", torch.from_numpy(layout.starts)
    yield "ends", torch.from_numpy(layout.ends)
    yield "columns", torch.from_numpy(layout.columns)


def picked(batch: Batch, kind: str) -> Batch:
    """The parts of a batch that are of a kind: a key of `PACKED`, or "" for the padded ones."""
    if not kind:
        return {name: part for name, part in batch.items() if "." not in name}
    parts = {name.partition(".")[2]: part for name, part in batch.items() if name.startswith(f"{kind}.")}
    return parts | {"labels": batch["labels"]}


def tokens_of(batches: list[Batch]) -> int:
    """Number of tokens without padding; of a UNet's batches the number of pictures."""
    if "latents" in batches[0]:
        return sum(len(batch["latents"]) for batch in batches)
    return int(sum(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum() for batch in batches))


def input_shapes(batches: list[Batch]) -> list[tuple[int, ...]]:
    """The different shapes of tokens or latents."""
    return sorted({tuple(batch["latents" if "latents" in batch else "input_ids"].shape) for batch in batches})


def shape_of(batch: Batch) -> tuple:
    """Names and shapes of a batch's tensors: batches with equal ones share compiled code and graphs."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in batch.items())
