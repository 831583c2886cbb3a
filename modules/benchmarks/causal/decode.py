"""From contexts to outputs: transformers' `generate`, greedy or as the LoRA authors' beam search decides.

In that search two things differ from `generate`'s defaults, because they do in microsoft/LoRA,
examples/NLG/src/gpt2_beam.py: the ban on repeated n-grams looks at the output alone (a name of four tokens stands in
the input and must be said), and after the ban probabilities are normalised again. A hypothesis counts with
log p / length ** length_penalty, its end token included, and the search goes on until no better one can come.
"""

from __future__ import annotations

import contextlib
import gc
import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from modules.documents import read_json
from variants.atomic import write_atomic
from variants.errors import UserError
from variants.schema import between, checked
from variants.wrappers import is_sharded

FIRST = 32
"""Tokens after which greedy outputs that have not ended go on in batches of their own."""


@dataclass(frozen=True)
class Decoding:
    """How outputs are searched for.

    Attributes:
        stop: tokens that end an output: the end token and, where the tokenizer has it as one token, an empty line
            (GPT-2: 50256 and 628, as in the authors' command).
        pad: the tokenizer's padding token.
        one_line: white space of an output is single blanks.
    """

    beams: int
    length_penalty: float
    no_repeat_ngram: int
    max_new_tokens: int
    batch_size: int
    stop: tuple[int, ...]
    pad: int
    one_line: bool = True

    @classmethod
    def of(cls, settings: Any, tokenizer) -> Decoding:
        """From a run's training settings that have the search's: E2E's."""
        blank = tokenizer.encode("\n\n", add_special_tokens=False)
        blank = [token for token in blank if token != tokenizer.unk_token_id] if len(blank) == 1 else []
        return cls(
            beams=settings.beams,
            length_penalty=settings.length_penalty,
            no_repeat_ngram=settings.no_repeat_ngram,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.decode_batch_size,
            stop=tuple(dict.fromkeys([tokenizer.eos_token_id, *blank])),
            pad=tokenizer.pad_token_id,
        )

    def greedy(self) -> Decoding:
        """The same with one beam, in larger batches: for the dev curve."""
        return replace(self, beams=1, batch_size=4 * self.batch_size)


class NoRepeatInOutput(LogitsProcessor):
    """Bans what would repeat an n-gram of the output; the first `start` tokens are the input.

    transformers' own looks at the hypotheses one by one in Python, which takes longer than the model on a GPU.
    """

    def __init__(self, size: int, start: int) -> None:
        self.size, self.start = size, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (B, T), scores (B, V) -> scores, -inf where a token would end an n-gram that is there already."""
        output, before = input_ids[:, self.start :], self.size - 1
        if output.shape[1] < self.size:
            return scores
        grams = output.unfold(1, self.size, 1)  # (B, T - start - size + 1, size)
        begun = output[:, None, output.shape[1] - before :]
        repeats = (grams[..., :before] == begun).all(-1)
        ceiling = torch.where(repeats, -torch.inf, torch.inf).to(scores.dtype)
        return scores.scatter_reduce(1, grams[..., before], ceiling, "amin")


@torch.no_grad()
def generate(model: nn.Module, contexts: Sequence[list[int]], decoding: Decoding) -> list[list[int]]:
    """The tokens of one output per context, without the token that ended it. The model must be in eval mode."""
    width = max(map(len, contexts))
    ids = torch.tensor([[decoding.pad] * (width - len(context)) + context for context in contexts])
    mask = torch.tensor([[0] * (width - len(context)) + [1] * len(context) for context in contexts])
    device = next(model.parameters()).device
    config = GenerationConfig(
        do_sample=False,
        num_beams=decoding.beams,
        early_stopping="never" if decoding.beams > 1 else False,
        length_penalty=decoding.length_penalty if decoding.beams > 1 else 1.0,
        renormalize_logits=decoding.beams > 1,
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=list(decoding.stop),
        pad_token_id=decoding.pad,
        use_cache=True,
    )
    banned = [NoRepeatInOutput(decoding.no_repeat_ngram, width)] if decoding.no_repeat_ngram else []
    with low_precision(model, device):
        found = model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=LogitsProcessorList(banned),
        )
    outputs = []
    for row in found[:, width:].tolist():
        end = next((k for k, token in enumerate(row) if token in decoding.stop), len(row))
        outputs.append(row[:end])
    return outputs


@contextlib.contextmanager
def low_precision(model: nn.Module, device: torch.device, on: bool | None = None) -> Iterator[None]:
    """bf16 on a GPU, but fp32 for the output embedding: scores of hypotheses differ by less than bf16 can tell.

    Args:
        on: whatever the device.
    """
    if not (device.type == "cuda" if on is None else on):
        yield
        return
    head = model.get_output_embeddings()

    def in_fp32(self: nn.Module, hidden: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            bias = None if getattr(self, "bias", None) is None else self.bias.float()
            return F.linear(hidden.float(), self.weight.float(), bias)

    head.forward = types.MethodType(in_fp32, head)
    try:
        with torch.autocast(device.type, torch.bfloat16):
            yield
    finally:
        del head.forward


def decode(
    model: nn.Module, contexts: Sequence[list[int]], tokenizer, decoding: Decoding, keep: Path | None = None
) -> list[str]:
    """One line of text per context, in their order: see :func:`decode_each`."""
    return decode_each(model, contexts, tokenizer, decoding, 1, keep)[0]


def decode_each(
    model: nn.Module,
    contexts: Sequence[list[int]],
    tokenizer,
    decoding: Decoding,
    size: int,
    keep: Path | None = None,
) -> list[list[str]]:
    """By adapter one line of text per context, in their order, the same on every process.

    Contexts are sorted by length and cut into batches, which do not depend on the number of processes; each process
    takes every world-th of them. Processes that share a model in shards take all: none can go through it alone. A
    batch takes as long as its longest output: see :func:`_limits`.

    Args:
        size: how many adapters are stacked on the model; they share a batch's rows.
        keep: a folder for the outputs of each batch. What lies there already is not decoded again, so that a killed
            decode loses at most the batch in hand; the caller names the folder by all that decides the outputs. Of a
            model in shards nothing is kept.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if is_sharded(model):
        rank, world, keep = 0, 1, None
    left = sorted(range(len(contexts)), key=lambda row: (-len(contexts[row]), row))
    found: dict[tuple[int, int], list[int]] = {(k, row): [] for k in range(size) for row in left}
    rows_at_once = max(1, decoding.batch_size // size)
    training = model.training
    model.eval()
    begun = 0  # tokens that every output which has not ended has
    for limit in _limits(decoding):
        batches = [left[start : start + rows_at_once] for start in range(0, len(left), rows_at_once)]
        further, mine = replace(decoding, max_new_tokens=limit - begun), {}
        for number in range(rank, len(batches), world):
            places = [(k, row) for k in range(size) for row in batches[number]]
            file = keep / f"{limit}-{number}.json" if keep else None
            outputs = _kept(file, len(places))
            if outputs is None:
                inputs = [[contexts[row] + found[k, row] for row in batches[number]] for k in range(size)]
                outputs = [output for one in _generate_each(model, inputs, further) for output in one]
                if file:
                    write_atomic(file, json.dumps(outputs))
            mine |= dict(zip(places, outputs, strict=True))
        parts = [mine]
        if world > 1:
            parts = [{} for _ in range(world)]
            dist.all_gather_object(parts, mine)
        for part in parts:
            for place, tokens in part.items():
                if len(found[place]) == begun:
                    found[place] += tokens
        begun = limit
        left = [row for row in left if any(len(found[k, row]) == begun for k in range(size))]
    model.train(training)
    _let_go()
    every = [[found[k, row] for row in range(len(contexts))] for k in range(size)]
    texts = [tokenizer.batch_decode(outputs, skip_special_tokens=True) for outputs in every]
    return [[" ".join(text.split()) if decoding.one_line else text.strip() for text in lines] for lines in texts]


def _limits(decoding: Decoding) -> Iterator[int]:
    """Lengths at which outputs that have not ended are put into new batches, so that a few long ones do not hold the
    others' places. A beam search, and a ban that looks at the whole output, do not go on from tokens alone."""
    limit = FIRST if decoding.beams == 1 and not decoding.no_repeat_ngram else decoding.max_new_tokens
    while limit < decoding.max_new_tokens:
        yield limit
        limit *= 2
    yield decoding.max_new_tokens


def _generate_each(
    model: nn.Module, contexts: Sequence[Sequence[list[int]]], decoding: Decoding
) -> list[list[list[int]]]:
    """By adapter the outputs of its contexts; in halves, and so on, where a GPU's memory is too small for all of them:
    how much there is depends on whoever shares the GPU, and hours of training must not end here.

    What the failed try held is free before the next one. Small parts are no rule for what follows: the half of a size
    that failed is tried whole again, and so is the next batch, as others may have left the GPU meanwhile.
    """
    rows = len(contexts[0])
    with contextlib.suppress(torch.OutOfMemoryError) if rows > 1 else contextlib.nullcontext():
        outputs = generate(model, [context for one in contexts for context in one], decoding)
        return [outputs[start : start + rows] for start in range(0, len(outputs), rows)]
    gc.collect()  # the error may be part of a cycle, and with it every tensor of the search
    _let_go()
    half = rows // 2
    print(f"decoding: too little memory on the GPU for {rows} inputs at once; now {half}", flush=True)
    parts = [[one[:half] for one in contexts], [one[half:] for one in contexts]]
    first, second = (_generate_each(model, part, decoding) for part in parts)
    return [one + other for one, other in zip(first, second, strict=True)]


def _let_go() -> None:
    """Give the memory of a search back: training wants blocks of other sizes, and other runs may share the GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


_TOKEN = Annotated[int, between(0, 2**31 - 1)]


def _kept(file: Path | None, rows: int) -> list[list[int]] | None:
    """The outputs in a file that an earlier try left whole."""
    try:
        outputs = checked(list[list[_TOKEN]], read_json(file), str(file)) if file and file.exists() else None
    except UserError:
        return None
    return outputs if outputs is not None and len(outputs) == rows else None
