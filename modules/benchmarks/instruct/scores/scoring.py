"""Scores of a model's answers, and of its choices among options, set by set."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from torch import nn

from modules.benchmarks.causal import token_losses
from modules.benchmarks.causal.decode import Decoding, decode_each
from modules.benchmarks.instruct.rows.chat import encode, prompt_ids, stop_ids
from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.scores import Score
from modules.documents import read_json
from variants.atomic import write_atomic
from variants.errors import UserError
from variants.schema import between, checked
from variants.wrappers import is_sharded

Figures = dict[str, float]


@dataclass(frozen=True)
class Answers:
    """How answers are made and scored.

    Attributes:
        scores: what is scored.
        tokenizer: with its chat template settled.
        max_new_tokens: longest answer.
        batch_size: answers made at once.
        max_length: tokens of an option with what it answers; longer ones are cut from the left.
        beams: of the search for an answer; 1 is greedy.
    """

    scores: tuple[Score, ...]
    tokenizer: Any
    max_new_tokens: int
    batch_size: int
    max_length: int
    beams: int = 1

    @property
    def decoding(self) -> Decoding:
        """Greedy, or a search by beams that ends when no better answer can come, each with its mean log-probability."""
        stop, pad = stop_ids(self.tokenizer), self.tokenizer.pad_token_id
        return Decoding(self.beams, 1.0, 0, self.max_new_tokens, self.batch_size, stop, pad, one_line=False)


def scored(
    model: nn.Module, examples: Sequence[Example], answers: Answers, size: int = 1, keep: Path | None = None
) -> list[tuple[Figures, list[str]]]:
    """For each of ``size`` stacked adapters its figures and its answers, the same on every process.

    A figure is called ``part_score``, or ``score`` where rows have no part; ``average_score`` is the mean over parts.
    Without a score of answers none are made, and they are all "".

    Args:
        keep: a folder for what is done on the way: see `decode_each`.
    """
    made = [[""] * len(examples)] * size
    if any(score.of_answer for score in answers.scores):
        contexts = [prompt_ids(example, answers.tokenizer) for example in examples]
        made = decode_each(model, contexts, answers.tokenizer, answers.decoding, size, keep)
    chosen = None
    if any(score.of_options for score in answers.scores):
        chosen = option_sums(model, examples, answers, size, keep)
    found = []
    for number, outputs in enumerate(made):
        figures: Figures = {}
        for score in answers.scores:
            if score.of_answer:
                values = [score.value(text, example) for text, example in zip(outputs, examples, strict=True)]
            else:
                values = [
                    float(example.options[score.of_options(sums, [len(o) for o in example.options])] == example.answer)
                    for sums, example in zip(chosen[number], examples, strict=True)
                ]
            figures |= by_part(score.name, values, examples)
        found.append((figures, list(outputs)))
    return found


def by_part(name: str, values: Sequence[float], examples: Sequence[Example]) -> Figures:
    """The mean of each part's values, and the mean of those."""
    parts: dict[str, list[float]] = defaultdict(list)
    for value, example in zip(values, examples, strict=True):
        parts[example.part].append(value)
    means = {part: sum(own) / len(own) for part, own in parts.items()}
    figures = {f"{part}_{name}" if part else name: mean for part, mean in means.items()}
    return figures | ({f"average_{name}": sum(means.values()) / len(means)} if any(means) else {})


def said(example: Example, option: str) -> str:
    """What would be said for an option: the response, with the option in the place of the right one, a word of it."""
    places = list(re.finditer(rf"(?<!\w){re.escape(example.answer)}(?!\w)", example.response)) if example.answer else []
    if not places:
        return option
    start, stop = places[-1].span()
    return f"{example.response[:start]}{option}{example.response[stop:]}"


@torch.no_grad()
def option_sums(
    model: nn.Module, examples: Sequence[Example], answers: Answers, size: int, keep: Path | None = None
) -> list[list[list[float]]]:
    """By adapter, row and option: the log-probability of what would be said for it, ended, given the instruction."""
    rows = [
        (place, number, encode(_with(example, said(example, option)), answers.tokenizer, "responses"))
        for place, example in enumerate(examples)
        for number, option in enumerate(example.options)
    ]
    rows = [(place, number, ids[-answers.max_length :], on[-answers.max_length :]) for place, number, (ids, on) in rows]
    order = sorted(rows, key=lambda row: -len(row[2]))
    at_once = max(1, answers.batch_size // size)
    batches = [order[start : start + at_once] for start in range(0, len(order), at_once)]
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if is_sharded(model):
        rank, world, keep = 0, 1, None
    training = model.training
    model.eval()
    mine: dict[tuple[int, int, int], float] = {}
    for index in range(rank, len(batches), world):
        batch = batches[index]
        file = keep / f"options-{index}.json" if keep else None
        sums = _kept(file, size * len(batch))
        if sums is None:
            sums = _sums(model, batch, answers.tokenizer.pad_token_id, size)
            if file:
                write_atomic(file, json.dumps(sums))
        places = [(k, place, number) for k in range(size) for place, number, *_ in batch]
        mine |= dict(zip(places, sums, strict=True))
    model.train(training)
    parts = [mine]
    if world > 1:
        parts = [{} for _ in range(world)]
        dist.all_gather_object(parts, mine)
    found = {place: value for part in parts for place, value in part.items()}
    return [
        [[found[k, place, number] for number in range(len(example.options))] for place, example in enumerate(examples)]
        for k in range(size)
    ]


def _with(example: Example, response: str) -> Example:
    return Example(**{**vars(example), "response": response})


def _sums(model: nn.Module, batch: Sequence[tuple], pad: int, size: int) -> list[float]:
    """The summed log-probabilities of each row's targets, for each adapter in turn."""
    device = next(model.parameters()).device
    width = max(len(ids) for _, _, ids, _ in batch)
    ids = torch.tensor([list(ids) + [pad] * (width - len(ids)) for _, _, ids, _ in batch], device=device)
    targets = torch.tensor([list(on) + [False] * (width - len(on)) for _, _, _, on in batch], device=device)
    ids, targets = ids.repeat(size, 1), targets.repeat(size, 1)
    targets[:, 0] = False
    rows, columns = targets.nonzero(as_tuple=True)
    kind = device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        embeddings = model.get_input_embeddings()(ids)
        hidden = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        losses = token_losses.token_losses(model, hidden[rows, columns - 1], ids[rows, columns])
    return torch.zeros(len(ids), device=device).index_add_(0, rows, -losses.float()).tolist()


def _kept(file: Path | None, rows: int) -> list[float] | None:
    """The sums in a file that an earlier try left whole."""
    if file is None or not file.exists():
        return None
    try:
        found = checked(list[Annotated[float, between(-1e30, 1e30)]], read_json(file), str(file))
    except UserError:
        return None
    return found if len(found) == rows else None
