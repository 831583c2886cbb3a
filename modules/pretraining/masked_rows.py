"""Rows of the embedded corpus for masked language modelling: words are masked on the device, anew for each batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from modules.pretraining.masked_corpus import EOS, MASK, PAD

PICKED, SHARES = 8, (0.06, 0.15, 0.4)
"""Most masked words of a row, and their shares of its words: hardly any where <s> must predict the discourse word, else
few, or so many that the words of the second part must be inferred from the first."""
POOL = 32
"""Batches that are drawn and masked at once."""


def mask_words(rows: Tensor, connectives: Tensor) -> tuple[Tensor, ...]:
    """Rows (B, T + 1) -> input ids (B, T), positions to predict (B, PICKED + 2) and their labels (-100: not counted).

    The words are those with the highest random scores: often discourse words, and rather words of the second part than
    of the first, which implies them. The last two positions are the end of the first part and <s>. There is no host
    synchronisation.
    """
    ids, hidden = rows[:, :-1], rows[:, -1]
    words = ids > MASK
    second = (ids == EOS).cumsum(1) > 0
    told = (hidden == -100)[:, None]
    many = told & (torch.rand(len(ids), 1, device=ids.device) < 0.4)
    scores = torch.rand(ids.shape, device=ids.device) + second * torch.where(many, 1.0, 0.4)
    ties = torch.isin(ids, connectives)
    tested = torch.rand(len(ids), 1, device=ids.device) < 0.6
    scores = torch.where(ties, torch.where(tested & ~many, 3.0, 0.0), scores).masked_fill(~words, -1.0)
    positions = scores.topk(PICKED, dim=1).indices
    share = torch.where(many, SHARES[2], torch.where(told, SHARES[1], SHARES[0]))
    counts = (share * words.sum(1, keepdim=True)).ceil()
    chosen = torch.arange(PICKED, device=ids.device) < counts
    labels = ids.gather(1, positions)
    dice = torch.rand(positions.shape, device=ids.device)
    tie = torch.isin(labels, connectives)
    wrong = labels.masked_fill(tie, MASK).roll(
        1, 1
    )  # another word of the row: the two parts must be compared to correct it
    shown = torch.where(tie | (dice < 0.55), MASK, torch.where(dice < 0.85, wrong, labels))
    inputs = ids.scatter(1, positions, torch.where(chosen, shown, labels))
    between = (
        (ids == EOS).int().argmax(1, keepdim=True)
    )  # the discourse word is easier to predict from here than from <s>
    positions = torch.cat([positions, between, torch.zeros_like(between)], 1)
    return inputs, positions, torch.cat([labels.masked_fill(~chosen, -100), hidden[:, None], hidden[:, None]], 1)


def batches(rows: Tensor, ties: Tensor, size: int, seed: int, pools: range) -> Iterator[tuple]:
    """Batches as from `mask_words`, each cut to its longest row; POOL of them for each pool.

    Each pool has a seed, so that training can continue at any pool. Rows are not sorted by length: batches of a single
    kind of text made the model forget the others.
    """
    for pool in pools:
        torch.manual_seed(1_000_003 * seed + pool)
        drawn = rows[torch.randint(len(rows), (size * POOL,)).to(rows.device)].long()
        longest = (drawn[:, :-1] != PAD).sum(1).view(POOL, size).amax(1).tolist()
        parts = (part.split(size) for part in mask_words(drawn, ties))
        for width, (inputs, positions, labels) in zip(longest, zip(*parts, strict=True), strict=True):
            yield inputs[:, :width], positions.clamp(max=width - 1), labels  # labels of padding are not counted
