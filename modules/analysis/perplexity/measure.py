"""Losses of a language model's next tokens, with its linear maps kept in each of several ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modules.analysis.perplexity.rounding import WAYS, rounded
from modules.pretraining.corpus import read_text
from variants.errors import UserError
from variants.quantisation import quantisable
from variants.sites.kinds import is_conv1d

EMBEDDED = ("embedded-gpt2", "embedded-llama")
"""The language models that ship with the project."""
UNREAD = 10**6
"""Number of the chunk of embedded text: far behind those that the small models have read."""


def stream(name: str, text: str, tokenizer: Any) -> Tensor:
    """A text as one row of token ids (tokens,), as it stands: no token is added.

    Args:
        name: the model's.
        text: a file (plain, .gz, .bz2, .xz), or "embedded": what the small models of the project were pretrained on, a
            part that they have not read.

    Raises:
        UserError: the file cannot be read, or no text of that kind ships for the model.
    """
    words = read_text(text) if text != "embedded" else _embedded(name)
    tokenizer.model_max_length = int(1e9)  # cut into rows below
    return torch.tensor(tokenizer(words, add_special_tokens=False)["input_ids"])


def _embedded(name: str) -> str:
    if name == "embedded-gpt2":
        from modules.embedded.prose import documents
        from modules.pretraining.causal_lm import END

        return f" {END} ".join(documents(0, UNREAD))
    if name == "embedded-llama":
        from modules.embedded.instructions import documents
        from modules.pretraining.small_llama import TEXT

        return TEXT + TEXT.join(documents(0, UNREAD))
    raise UserError(f"--text: {name} needs a text file; embedded text is for {' and '.join(EMBEDDED)}")


def rows_of(tokens: Tensor, length: int, most: int | None) -> Tensor:
    """Rows (rows, length + 1) that share one token with the next: each token but the first of a row is predicted, once.
    What is left of a row at the end is not scored.

    Args:
        tokens: (tokens,).
        most: rows, spread evenly over the text; None: all.

    Raises:
        UserError: the text fills no row.
    """
    count = (len(tokens) - 1) // length
    if count < 1:
        raise UserError(f"--length {length}: the text has {len(tokens):,} tokens, not enough for a row")
    rows = tokens[: count * length + 1].unfold(0, length + 1, length)
    return rows[torch.arange(most) * count // most] if most and most < count else rows


@torch.no_grad()
def measured(
    model: nn.Module, rows: Tensor, ways: Sequence[str], dtype: torch.dtype, batch_size: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each of ``ways`` its name and record: the mean loss of each row, and ‖Q(W) - W‖ / ‖W‖ over all maps.

    The maps that `variants.quantisation.quantise` would take get the values that their codes stand for; all else, and
    products, stay in ``dtype``. The model is changed; on its device.
    """
    maps = [module for _, module in quantisable(model)]
    kept = [module.weight.detach().to("cpu", torch.float32, copy=True) for module in maps]
    model.eval().to(dtype)
    for way in ways:
        square = off = 0.0
        for module, weight in zip(maps, kept, strict=True):
            dense = weight.to(module.weight.device)
            matrix = dense.t().contiguous() if is_conv1d(module) else dense
            values = rounded(matrix, way)
            square += matrix.square().sum().item()
            off += (values - matrix).square().sum().item()
            module.weight.copy_(values.t() if is_conv1d(module) else values)
        losses = [loss for part in rows.split(batch_size) for loss in row_losses(model, part)]
        yield way, {"bits": WAYS[way].bits, "relative_error": (off / square) ** 0.5, "losses": losses}


def row_losses(model: nn.Module, rows: Tensor) -> list[float]:
    """The mean loss of each of some rows (B, length + 1), in fp32."""
    rows = rows.to(next(model.parameters()).device)
    ids = rows[:, :-1]
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    losses = [cross_entropy(own.float(), row[1:]) for own, row in zip(logits, rows, strict=True)]
    return torch.stack(losses).tolist()
