"""Pretraining of the small LLaMA that ships with the project: letters as tokens, skills in a short notation."""

from __future__ import annotations

import re
import time

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modules.embedded.instructions import ASSISTANT, END, TEMPLATE, USER, documents
from modules.pretraining.causal_lm import stream_rows, train_and_write
from modules.pretraining.model_folder import pick_device
from modules.pretraining.settings import LlamaSettings

PAD, TEXT = "<|pad|>", "<|text|>"
SPECIAL = (PAD, TEXT, USER, ASSISTANT, END)
"""Padding, what comes before each document, and the parts of a conversation."""
LETTERS = "\n" + "".join(map(chr, range(32, 127)))
"""All that can be written: what ASCII prints, and the line's end."""


def pretrain(settings: LlamaSettings) -> int:
    """Train the model, write its folder, and print a line about it. Returns the exit code."""
    start = time.time()
    device, tokenizer = pick_device(settings.device), letters()
    tokenizer.model_max_length = settings.positions
    stream = torch.from_numpy(written(settings.seed, settings.chunks)).to(device)
    print(f"{len(stream):,} letters, {time.time() - start:.0f} s", flush=True)
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(_config(settings, tokenizer))
    rows = stream_rows(stream, settings.batch_size, settings.length, settings.seed)
    return train_and_write(settings, model, tokenizer, rows, "embedded skills", {}, start)


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each letter, and the special ones; it has the chat template."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *LETTERS))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=PAD, unk_token=PAD,
        extra_special_tokens={"user": USER, "assistant": ASSISTANT, "text": TEXT},
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def written(seed: int, chunks: int) -> np.ndarray:
    """The documents of the first chunks as token ids (uint8), each after a `TEXT`."""
    table = np.zeros(128, np.uint8)
    for number, letter in enumerate(LETTERS, len(SPECIAL)):
        table[ord(letter)] = number
    marks = {token: chr(1 + number) for number, token in enumerate(SPECIAL)}  # stand for themselves in the table
    for number, mark in enumerate(marks.values()):
        table[ord(mark)] = number
    special = re.compile("|".join(map(re.escape, SPECIAL)))
    parts = []
    for chunk in range(chunks):
        text = TEXT + TEXT.join(documents(seed, chunk))
        text = special.sub(lambda found: marks[found[0]], text)
        parts.append(table[np.frombuffer(text.encode("ascii"), np.uint8)])
    return np.concatenate(parts)


def _config(settings: LlamaSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=-(-len(tokenizer) // 8) * 8, hidden_size=settings.hidden, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, num_key_value_heads=settings.heads // (1 if settings.heads % 3 else 3),
        intermediate_size=-(-settings.hidden * 8 // 3 // 64) * 64, max_position_embeddings=settings.positions,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
