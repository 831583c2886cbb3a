"""Pretraining of a GPT-2 by next-token prediction, on the embedded prose or on text files."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from modules.embedded.prose import documents, vocabulary
from modules.pretraining.corpus import token_stream
from modules.pretraining.model_folder import deterministic, machine, pick_device, write_model_folder
from modules.pretraining.settings import CausalSettings, GPT2Settings
from modules.pretraining.training_step import TrainingStep
from variants.errors import UserError, first_line

END, UNKNOWN = "<|endoftext|>", "<unk>"


def pretrain(settings: GPT2Settings) -> int:
    """Train a GPT-2, write its folder, and print a line about it. Returns the exit code.

    Raises:
        UserError: text or tokenizer cannot be read, or there is too little text.
    """
    start = time.time()
    device = pick_device(settings.device)
    shape = (settings.batch_size, settings.length)
    tokens: dict[str, Tensor] = {}
    if settings.text:
        tokenizer = byte_pairs(Path(settings.bpe))
        streams = token_stream(settings.text.split(","), tokenizer)
        print(f"tokens: {', '.join(f'{len(s):,} {n}' for n, s in streams.items())}, {time.time() - start:.0f} s")
        tokens = {name: torch.from_numpy(stream.astype("int32")).to(device) for name, stream in streams.items()}
        rows = stream_rows(tokens["train"], *shape, settings.seed)
    else:
        tokenizer = word_tokenizer(vocabulary(settings.seed))
        rows = prose_rows(settings.seed, tokenizer, *shape)
    tokenizer.model_max_length = settings.positions
    torch.manual_seed(settings.seed)
    model = GPT2LMHeadModel(_config(settings, tokenizer))
    corpus = [Path(name).name for name in settings.text.split(",")] if settings.text else "embedded prose"
    return train_and_write(settings, model, tokenizer, rows, corpus, tokens, start)


def train_and_write(
    settings: CausalSettings,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    rows: Iterator[Tensor],
    corpus: str | list[str],
    tokens: dict[str, Tensor],
    start: float,
) -> int:
    """Train a language model on rows, write its folder, and print a line about it; the exit code.

    Args:
        corpus: what the record says of the text.
        tokens: "train" and "held_out", where the text is of a known length.
        start: when the command began.
    """
    device, began = pick_device(settings.device), time.time()
    with deterministic(settings.deterministic):
        loss, steps = train(settings, model, rows, device)
    trained = time.time() - began
    held_out = held_out_loss(model, tokens["held_out"], settings.length) if tokens else None
    parameters = sum(p.numel() for p in model.parameters())
    kept = (
        "batch_size", "length", "lr", "weight_decay", "layers", "hidden", "heads", "positions", "seed", "deterministic",
    )  # fmt: skip
    record = {
        "steps": steps,
        **{name: getattr(settings, name) for name in kept},
        "corpus": corpus,
        **{f"{name}_tokens": len(stream) for name, stream in tokens.items()},
        "tokens_seen": steps * settings.batch_size * settings.length,
        "loss": round(loss, 4), "held_out_loss": held_out and round(held_out, 4),
        "parameters": parameters, "vocabulary": len(tokenizer),
        "training_seconds": round(trained, 1), "seconds": round(time.time() - start, 1),
        **machine(device),
    }  # fmt: skip
    untied = {name: value for name, value in model.cpu().state_dict().items() if name != "lm_head.weight"}
    write_model_folder(settings.out, model.config, tokenizer, untied, record)
    also = "" if held_out is None else f", held out {held_out:.3f}"
    print(f"{parameters:,} parameters, loss {loss:.3f}{also}, written to {settings.out}")
    return 0


def _config(settings: GPT2Settings, tokenizer: PreTrainedTokenizerFast) -> GPT2Config:
    unused = -len(tokenizer) % 64 if settings.text else 0  # rows of the embedding without a token: GPUs like 64s
    end = tokenizer.eos_token_id
    return GPT2Config(
        vocab_size=len(tokenizer) + unused, n_positions=settings.positions, n_embd=settings.hidden,
        n_layer=settings.layers, n_head=settings.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=end, eos_token_id=end,
    )  # fmt: skip


# ---- text ---------------------------------------------------------------------------------------------------------


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each word; words are separated by blanks."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate((END, UNKNOWN, *words))}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, pad_token=END, unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def prose_rows(seed: int, tokenizer: PreTrainedTokenizerFast, batch_size: int, length: int) -> Iterator[Tensor]:
    """Batches (B, length + 1) of the endless corpus."""
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


def byte_pairs(folder: Path) -> PreTrainedTokenizerFast:
    """GPT-2's tokenizer from its published files (vocab.json and merges.txt), else the one that transformers finds.

    Raises:
        UserError: there is none in the folder.
    """
    files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
    try:
        if not all(Path(file).is_file() for file in files):
            return AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        core = Tokenizer(models.BPE.from_file(*files))
    except Exception as error:  # tokenizers and transformers raise a dozen kinds
        raise UserError(f"--bpe {folder}: no tokenizer there: {first_line(error)}") from None
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, unk_token=END,
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def stream_rows(stream: Tensor, batch_size: int, length: int, seed: int) -> Iterator[Tensor]:
    """Batches (B, length + 1) from random places of a stream of tokens, on the stream's device.

    Raises:
        UserError: the stream is shorter than a row.
    """
    if len(stream) <= length + 1:
        raise UserError(f"the text has {len(stream):,} tokens, not enough for rows of --length {length}")
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(length + 1, device=stream.device)
    while True:
        starts = torch.randint(len(stream) - length - 1, (batch_size, 1), generator=generator)
        yield stream[starts.to(stream.device, non_blocking=True) + offsets].long()


# ---- training -----------------------------------------------------------------------------------------------------


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean loss of a batch (B, length + 1), in which each token but the first is predicted; bf16 on a GPU."""
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.device.type == "cuda"):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def train(
    settings: CausalSettings, model: nn.Module, rows: Iterator[Tensor], device: torch.device
) -> tuple[float, int]:
    """Train for the settings' steps or minutes; (mean loss of the last tenth of the steps, number of steps)."""
    model.to(device).train()
    train_step = TrainingStep(
        lambda batch: (loss_of(model, batch["rows"]),), model, settings.lr, settings.weight_decay, settings.reference
    )
    start, losses, step = time.time(), [], 0
    while True:
        spent = (time.time() - start) / 60
        share = spent / settings.minutes if settings.minutes else step / settings.steps
        if share >= 1:
            break
        for group in train_step.optimizer.param_groups:
            group["lr"] = settings.lr * min(share / 0.05 + 1e-2, (1 - share) / 0.95, 1.0)
        (loss,) = train_step({"rows": next(rows)})
        losses.append(loss.clone())
        step += 1
        if step % 50 == 0:
            line = f"step {step:,}  loss {losses[-1].item():.3f}  {100 * share:.0f} %  {time.time() - start:.0f} s"
            watched = sys.stdout.isatty()
            if watched or step % 500 == 0:
                print(f"\r{line}" if watched else line, end="" if watched else "\n", flush=True)
    print()
    return torch.stack(losses[-max(1, step // 10) :]).mean().item(), step


def held_out_loss(model: nn.Module, stream: Tensor, length: int) -> float | None:
    """Mean loss over held-out tokens in rows of `length`, at most a million tokens; None where they fill no row."""
    count = min(len(stream) - 1, 10**6) // length
    if count < 1:
        return None
    rows = stream[: count * length + 1].unfold(0, length + 1, length)
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, part.long()) * len(part) for part in rows.split(16)]
    return (torch.stack(losses).sum() / count).item()
