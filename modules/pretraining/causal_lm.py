"""Pretraining of a GPT-2 from text."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modules.embedded.prose import documents
from variants.atomic import write_atomic
from variants.errors import UserError

if TYPE_CHECKING:
    import torch

END, UNKNOWN = "<|endoftext|>", "<unk>"


# ---- text ---------------------------------------------------------------------------------------------------------
def word_tokenizer(words: list[str]):
    """One token per word; blanks separate."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate((END, UNKNOWN, *words))}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, pad_token=END, unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def prose_rows(seed: int, tokenizer, batch_size: int, length: int) -> Iterator[torch.Tensor]:
    """Batches (B, length + 1) of the endless corpus."""
    import torch

    ids = tokenizer.get_vocab()
    need, chunk = batch_size * (length + 1), 0
    stream: list[int] = []
    while True:
        while len(stream) < need:
            for text in documents(seed, chunk):
                stream += [*(ids.get(word, 1) for word in text.split()), 0]
            chunk += 1
        yield torch.tensor(stream[:need]).view(batch_size, length + 1)
        stream = stream[need:]


def byte_pairs(folder: Path):
    """GPT-2's tokenizer from its published files, or whatever transformers finds in the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
    try:
        if not all(Path(file).is_file() for file in files):
            return AutoTokenizer.from_pretrained(folder, use_fast=True)
        core = Tokenizer(models.BPE.from_file(*files))
    except Exception as error:  # of a dozen kinds; the person needs one line
        raise UserError(f"--bpe {folder}: no tokenizer there: {' '.join(str(error).split())[:200]}") from None
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, unk_token=END,
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def stream_rows(stream: torch.Tensor, batch_size: int, length: int, seed: int) -> Iterator[torch.Tensor]:
    """Batches (B, length + 1) from random places of a stream of tokens, where the stream lies."""
    import torch

    if len(stream) <= length + 1:
        raise UserError(f"--text has {len(stream):,} tokens, not enough for rows of --length {length}")
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(length + 1, device=stream.device)
    while True:
        starts = torch.randint(len(stream) - length - 1, (batch_size, 1), generator=generator)
        yield stream[starts.to(stream.device, non_blocking=True) + offsets].long()


# ---- training -----------------------------------------------------------------------------------------------------
def loss_of(model, batch: torch.Tensor) -> torch.Tensor:
    """Mean loss of a batch (B, length + 1): each token but the first is predicted; bf16 on a GPU."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.device.type == "cuda"):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def train(options: argparse.Namespace, model, rows: Iterator[torch.Tensor], device: torch.device) -> tuple[float, int]:
    """(mean loss of the last tenth of the steps, steps done); on a GPU the step is CUDA graphs."""
    import torch

    from modules.pretraining.steps import Steps

    model.to(device).train()
    adam = {"lr": options.lr, "betas": (0.9, 0.98)}
    take_step = Steps(model, lambda batch: (loss_of(model, batch["rows"]),), options.weight_decay, **adam)
    start, losses, step = time.time(), [], 0
    while True:
        spent = (time.time() - start) / 60
        share = spent / options.minutes if options.minutes else step / options.steps
        if share >= 1:
            break
        for group in take_step.optimizer.param_groups:
            group["lr"] = options.lr * min(share / 0.05 + 1e-2, (1 - share) / 0.95, 1.0)
        (loss,) = take_step({"rows": next(rows)})
        losses.append(loss.clone())
        step += 1
        if step % 50 == 0:
            line = f"step {step:,}  loss {losses[-1].item():.3f}  {100 * share:.0f} %  {time.time() - start:.0f} s"
            watched = sys.stdout.isatty()
            if watched or step % 500 == 0:
                print(f"\r{line}" if watched else line, end="" if watched else "\n", flush=True)
    print()
    return torch.stack(losses[-max(1, step // 10) :]).mean().item(), step


def held_out_loss(model, stream: torch.Tensor, length: int) -> float | None:
    """Mean loss over the held-out tokens in rows of `length`, at most a million of them; None where there are none."""
    import torch

    count = min(len(stream) - 1, 10**6) // length
    if count < 1:
        return None
    rows = stream[: count * length + 1].unfold(0, length + 1, length)
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, part.long()) * len(part) for part in rows.split(16)]
    return (torch.stack(losses).sum() / count).item()


def save(folder: Path, model, tokenizer, record: dict) -> None:
    """A model folder in transformers' form: fp16 safetensors, tokenizer, and how it was made."""
    import tempfile

    import torch
    from safetensors.torch import save

    with tempfile.TemporaryDirectory() as scratch:
        model.config.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir()):
            write_atomic(folder / file.name, file.read_bytes())
    tensors = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()
               if name != "lm_head.weight"}  # fmt: skip  # tied to the input embedding
    write_atomic(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_atomic(folder / "pretraining.json", json.dumps(record, indent=1) + "\n")
