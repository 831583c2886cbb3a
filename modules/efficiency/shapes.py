"""Backbones by their published sizes with random weights, and batches of fixed shape or of real lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data import module
from modules.data.packing import Layout
from modules.data.padding import EDGES
from variants.sites.architectures import ARCHITECTURES

Batch = dict[str, Tensor]
LENGTHS = Path(__file__).with_name("lengths.json")
"""Histograms of row lengths, made by ``python -m modules.efficiency.row_lengths``."""
PACKED = {"packed": module.MULTIPLE, "each": module.MULTIPLE_OF_MANY}
"""Kinds of packed batches, for one adapter and for each of several, and what their lengths are multiples of: a
classifier's batch holds their parts as ``packed.input_ids`` and so on beside the padded ones."""
MULTIPLE = 128  # target tokens of a language model's batch come in multiples of this, as in training
SMOOTHING = 0.1  # of the E2E loss, as in the LoRA authors' recipe

_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SHAPES: dict[str, dict[str, Any]] = {
    "roberta-base": {"model_type": "roberta", **_ROBERTA, **_BASE},
    "roberta-large": {"model_type": "roberta", **_ROBERTA, **_LARGE},
    "roberta-thin": {
        "model_type": "roberta",
        **_ROBERTA,
        "hidden_size": 16,
        "num_hidden_layers": 12,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    },
    "gpt2-medium": {"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16},
}
"""transformers' configuration of each backbone; the embedded ones are read from their folders. The thin one has
roberta-base's blocks and next to no arithmetic: what is left is the host's time."""


def sizes(shape: str) -> dict[str, Any]:
    """Configuration of a shape: a published one, or ``embedded-roberta`` and ``embedded-gpt2`` of the project."""
    from modules.embedded import GPT2, ROBERTA

    if folder := {"embedded-roberta": ROBERTA, "embedded-gpt2": GPT2}.get(shape):
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return SHAPES[shape]


def is_language_model(config: dict[str, Any]) -> bool:
    """Whether a shape is measured as a language model; the others are classifiers."""
    return ARCHITECTURES[config["model_type"]].causal


def build(config: dict[str, Any], device: torch.device, seed: int = 0, dropout: bool = True) -> nn.Module:
    """A classifier of two labels or a language model with random weights, in fp32 and training mode.

    Args:
        dropout: as the configuration has it; else 0 everywhere.
    """
    import transformers

    options = {k: v for k, v in config.items() if k not in ("architectures", "transformers_version", "dtype")}
    kind = options.pop("model_type")
    is_lm = is_language_model(config)
    if not dropout:
        options |= dict.fromkeys(ARCHITECTURES[kind].dropout, 0.0)
    options |= {"use_cache": False} if is_lm else {"num_labels": 2}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        auto = transformers.AutoModelForCausalLM if is_lm else transformers.AutoModelForSequenceClassification
        model = auto.from_config(transformers.AutoConfig.for_model(kind, **options), attn_implementation="sdpa")
    return model.train()


# ---- the loss that every way computes -----------------------------------------------------------------------


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Scalar loss in fp32: cross-entropy of the labels, or of the target tokens with label smoothing.

    Args:
        model: a transformers model, or PEFT's around one; logits of a language model are computed at targets alone.
    """
    names = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "starts", "ends", "columns")
    inputs = {k: batch[k] for k in names if k in batch}
    if "targets" not in batch:
        return F.cross_entropy(model(**inputs).logits.float(), batch["labels"])
    hidden = model.transformer(**inputs).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1).index_select(0, batch["positions"])).float()
    losses = F.cross_entropy(logits, batch["targets"], reduction="none", label_smoothing=SMOOTHING)
    return (losses * batch["weights"]).sum()


# ---- batches ------------------------------------------------------------------------------------------------


@dataclass
class Lengths:
    """Row lengths to draw from: tokens of a row, how often, and how many of them are targets (language models)."""

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
    """Batches of rows x width: the first row is full, the others have between half of the width and all of it."""
    rng = np.random.default_rng(0)
    lengths = [np.concatenate([[width], rng.integers(max(3, width // 2), width + 1, rows - 1)]) for _ in range(count)]
    return [_batch(config, n, n // 2, width, rng, device) for n in lengths]


def positions(config: dict[str, Any]) -> int:
    """Tokens that a row may have."""
    import transformers

    full = transformers.AutoConfig.for_model(**config)
    return full.max_position_embeddings - ARCHITECTURES[full.model_type].first_position(full)


def drawn_batches(config: dict[str, Any], rows: int, name: str, device: torch.device, count: int) -> list[Batch]:
    """Batches of real lengths, padded to the first of EDGES that the longest row fits in; the tasks take turns.

    Rows that are longer than the backbone has positions for are cut.
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
    """The parts of a batch that are of one kind, a key of `PACKED`, or, where it is empty, padded."""
    if not kind:
        return {name: part for name, part in batch.items() if "." not in name}
    own = {name.partition(".")[2]: part for name, part in batch.items() if name.startswith(f"{kind}.")}
    return own | {"labels": batch["labels"]}


def tokens_of(batches: list[Batch]) -> int:
    """Tokens without padding."""
    return int(sum(batch["attention_mask"].sum() for batch in batches))


def shape_of(batch: Batch) -> tuple:
    return tuple((name, tuple(tensor.shape)) for name, tensor in batch.items())
