"""Answers to new instructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from modules.benchmarks.causal.decode import decode_each
from modules.benchmarks.instruct.rows.chat import prepare, prompt_ids
from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.scores.scoring import Answers

AT_ONCE = 32
"""Instructions between two signs of progress."""


def answer(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], inputs: Mapping[str, Any], done: Callable[[int], object]
) -> list[dict[str, str]]:
    """The column `answer` of each instruction.

    Args:
        inputs: `template` and `max_new_tokens`, as a run had them.
        done: called with a number of rows whenever so many more are done.
    """
    prepare(tokenizer, inputs.get("template"))
    decoding = Answers((), tokenizer, int(inputs.get("max_new_tokens", 128)), AT_ONCE, 0).decoding
    found: list[str] = []
    for start in range(0, len(texts), AT_ONCE):
        part = texts[start : start + AT_ONCE]
        contexts = [prompt_ids(Example((("user", text),), ""), tokenizer) for text in part]
        found += decode_each(model, contexts, tokenizer, decoding, 1)[0]
        done(len(part))
    return [{"answer": text} for text in found]
