"""What a classification head says of new texts, in the words of its task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ROWS = 32
"""Texts of a batch."""


@torch.no_grad()
def classify(
    model: Any,
    tokenizer: Any,
    rows: Sequence[tuple[str, ...]],
    done: Callable[[int], object],
) -> list[dict[str, Any]]:
    """Columns of each row: `label` and `probability`; `score` of a regression; of several labels at once `label`,
    those of a probability of at least 0.5 as `a|b`, and `probability of a` for each.

    Args: as `modules.benchmarks.base.Benchmark.predict`.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda number: -sum(map(len, rows[number])))
    found: dict[int, dict[str, Any]] = {}
    for start in range(0, len(order), ROWS):
        numbers = order[start : start + ROWS]
        columns = zip(*(rows[number] for number in numbers), strict=True)
        batch = tokenizer(
            *(list(column) for column in columns),
            truncation=True,  # to the tokenizer's own limit, which `load_run` has set
            padding=True,
            return_tensors="pt",
        )
        logits = model(**batch.to(device)).logits.float().cpu()
        found |= dict(zip(numbers, told(logits, model.config), strict=True))
        done(len(numbers))
    return [found[number] for number in range(len(rows))]


def told(logits: Tensor, config: Any) -> list[dict[str, Any]]:
    """The columns of each row of logits (B, C).

    Args:
        config: of the model: `problem_type` and `id2label`.
    """
    if config.problem_type == "regression":
        return [{"score": value} for value in logits[:, 0].tolist()]
    labels = [config.id2label[number] for number in range(logits.shape[1])]
    if config.problem_type == "multi_label_classification":
        each = [dict(zip(labels, row, strict=True)) for row in logits.sigmoid().tolist()]
        return [
            {"label": "|".join(name for name, share in row.items() if share >= 0.5)}
            | {f"probability of {name}": share for name, share in row.items()}
            for row in each
        ]
    highest = logits.softmax(-1).max(-1)
    pairs = zip(highest.indices.tolist(), highest.values.tolist(), strict=True)
    return [{"label": labels[number], "probability": share} for number, share in pairs]
