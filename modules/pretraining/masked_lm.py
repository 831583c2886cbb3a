"""Pretraining of a RoBERTa from the embedded corpus."""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modules.embedded.corpus import CHUNK, documents, split_words
from variants.atomic import write_atomic

if TYPE_CHECKING:
    import torch

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BOS, PAD, EOS, UNK, MASK = range(5)
LENGTH = 52
"""Most tokens per row."""
PICKED, SHARES = 8, (0.06, 0.15, 0.4)
"""At most this many masked words per row, and their share of its words: hardly any where <s> must predict the discourse
word, else few, or so many of the second part that who did what to whom must be read from the first."""
POOL = 32
"""Batches that are drawn and masked together."""


# --- corpus ----------------------------------------------------------------------------------------------------------
def encode(job: tuple[int, int, float, dict[str, int]]) -> bytes:
    """One chunk of documents as int16 rows of LENGTH tokens plus the id that <s> must predict (-100: none)."""
    import numpy as np

    from modules.embedded.lexicon import Dice

    seed, chunk, hide, ids = job
    rows = np.full((CHUNK, LENGTH + 1), PAD, dtype=np.int16)
    rows[:, LENGTH] = -100
    dice = Dice("hide", seed, chunk)
    for row, (first, second, connective) in zip(rows, documents(seed, chunk), strict=True):
        hidden = dice.chance(hide)
        parts = [[ids.get(word, UNK) for word in split_words(text)] for text in (first, second)]
        if hidden:
            row[LENGTH] = ids[connective]
        else:
            parts[1 if second else 0].insert(0, ids[connective])
        tokens = [BOS, *parts[0], EOS] + ([EOS, *parts[1], EOS] if second else [])
        row[: min(len(tokens), LENGTH)] = tokens[:LENGTH]
    return rows.tobytes()


def corpus(seed: int, count: int, hide: float, ids: dict[str, int], workers: int) -> torch.Tensor:
    """(count, LENGTH + 1) int16, written by several processes."""
    import torch

    jobs = [(seed, chunk, hide, ids) for chunk in range(math.ceil(count / CHUNK))]
    start, parts = time.time(), []
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        for part in pool.imap(encode, jobs, chunksize=4):
            parts.append(torch.frombuffer(bytearray(part), dtype=torch.int16).view(CHUNK, LENGTH + 1))
            if len(parts) % 50 == 0 or len(parts) == len(jobs):
                print(f"\rcorpus {len(parts) * CHUNK:,} documents, {time.time() - start:.0f} s", end="", flush=True)
    print()
    return torch.cat(parts)


# --- model and tokenizer ---------------------------------------------------------------------------------------------
def build_tokenizer(words: list[str]):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate((*SPECIAL, *words))}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s>:0 $B:0 </s>:0", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>", model_max_length=128, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    return tokenizer, ids


def build_config(vocab_size: int, layers: int, hidden: int):
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=vocab_size, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden, max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5,
        bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS, dtype="float32", architectures=["RobertaModel"],
    )  # fmt: skip


# --- training --------------------------------------------------------------------------------------------------------
def mask_words(rows: torch.Tensor, connectives: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(B, T + 1) rows -> input ids (B, T), positions to predict (B, PICKED + 2) and their labels.

    Label -100 is not counted. The words are the top of random scores: discourse words first, half of the time, and
    words of the second part rather than of the first, which they follow from. The end
    of the first part and <s> come last. No host synchronisation."""
    import torch

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
    wrong = labels.masked_fill(tie, MASK).roll(1, 1)  # another word of the row: to put it right, compare the parts
    shown = torch.where(tie | (dice < 0.55), MASK, torch.where(dice < 0.85, wrong, labels))
    inputs = ids.scatter(1, positions, torch.where(chosen, shown, labels))
    between = (ids == EOS).int().argmax(1, keepdim=True)  # from here the second part is near: <s> reads it off
    positions = torch.cat([positions, between, torch.zeros_like(between)], 1)
    return inputs, positions, torch.cat([labels.masked_fill(~chosen, -100), hidden[:, None], hidden[:, None]], 1)


def batches(rows: torch.Tensor, ties: torch.Tensor, size: int, seed: int, pools: range) -> Iterator[tuple]:
    """What `mask_words` gives, for POOL batches per pool, each cut to its longest row. A pool has a seed of its own, so
    that training can go on at any of them. Rows are not sorted by length: a batch of one kind of text pulls to its side
    all that the others have taught."""
    import torch

    for pool in pools:
        torch.manual_seed(1_000_003 * seed + pool)
        drawn = rows[torch.randint(len(rows), (size * POOL,)).to(rows.device)].long()
        longest = (drawn[:, :-1] != PAD).sum(1).view(POOL, size).amax(1).tolist()
        parts = (part.split(size) for part in mask_words(drawn, ties))
        for width, (inputs, positions, labels) in zip(longest, zip(*parts, strict=True), strict=True):
            yield inputs[:, :width], positions.clamp(max=width - 1), labels  # in the padding nothing is predicted


def train(options: argparse.Namespace, config, rows: torch.Tensor, connectives: list[int], device: torch.device):
    """Returns the model (fp32, on the CPU) and, over the last tenth of the steps, its loss and the share of discourse
    words that it got right, in the text and at <s>. A killed training goes on from its last checkpoint."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import RobertaForMaskedLM

    from modules.pretraining.steps import Steps

    torch.manual_seed(options.seed)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0  # the text never ends: nothing to overfit
    model = RobertaForMaskedLM(config).to(device)
    on_gpu = device.type == "cuda"
    rows, ties = rows.to(device), torch.tensor(connectives, device=device)

    def compute(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, which discourse words were seen and put right)"""
        inputs, positions, labels = batch.values()
        seen = (inputs != PAD)[:, None, None, :]  # of four dimensions: transformers asks the device nothing about it
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            hidden = model.roberta(input_ids=inputs, attention_mask=seen)[0]
            hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
            logits = model.lm_head(hidden)
        told, hidden_words = (
            cross_entropy(logits[:, part].float().flatten(0, 1), labels[:, part].flatten(), ignore_index=-100)
            for part in (slice(None, -2), slice(-2, None))
        )
        right = logits.detach().argmax(-1) == labels
        found = []
        for part in (slice(None, -2), slice(-1, None)):
            of = labels[:, part, None] == ties
            found += [(of & right[:, part, None]).sum((0, 1)), of.sum((0, 1))]
        return told + hidden_words, torch.stack(found, 1)  # of equal weight: a row has many words and says one thing

    take_step = Steps(model, compute, weight_decay=0.01, lr=options.lr, betas=(0.9, 0.98))
    steps = math.ceil(options.steps / POOL) * POOL
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        take_step.optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    counts = torch.zeros(len(connectives), 4, device=device)  # right and seen, in the text and at <s>
    losses = torch.zeros(2, device=device)
    state = {"model": model, "optimizer": take_step.optimizer, "schedule": schedule}
    checkpoint, settings = options.out / "checkpoint.pt", {k: v for k, v in vars(options).items() if k != "out"}
    done = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["settings"] != settings:
            raise SystemExit(f"{checkpoint} is of a training with other flags; go on with those, or delete it")
        done, counts, losses = saved["done"], saved["counts"], saved["losses"]
        for name, part in state.items():
            part.load_state_dict(saved[name])
    start, every = time.time(), max(POOL, steps // 100 // POOL * POOL)
    pools = range(done // POOL, steps // POOL)
    drawn = batches(rows, ties, options.batch_size, options.seed, pools)

    for step, batch in enumerate(drawn, start=done + 1):
        loss, found = take_step(dict(zip(("inputs", "positions", "labels"), batch, strict=True)))
        schedule.step()
        counts += found
        losses += torch.stack([loss, torch.ones_like(loss)])
        if step % every == 0 or step == steps:
            spent = (time.time() - start) / (step - done)
            text, at_start = (counts[:, k].sum() / counts[:, k + 1].sum().clamp(min=1) for k in (0, 2))
            line = f"step {step:,}/{steps:,}  loss {losses[0] / losses[1]:.3f}  discourse words {text:.0%}"
            left = f"{spent * (steps - step):.0f} s left "
            print(f"\r{line}, at <s> {at_start:.0%}  {1000 * spent:.0f} ms/step  {left}", end="", flush=True)
            if step <= 0.9 * steps:
                counts.zero_()
                losses.zero_()
            options.out.mkdir(parents=True, exist_ok=True)
            parts = {name: part.state_dict() for name, part in state.items()}
            buffer = io.BytesIO()
            torch.save({**parts, "done": step, "counts": counts, "losses": losses, "settings": settings}, buffer)
            write_atomic(checkpoint, buffer.getvalue())
    print()
    shares = (counts[:, ::2] / counts[:, 1::2].clamp(min=1)).tolist()
    return model.float().cpu(), (losses[0] / losses[1]).item(), shares


# --- files -----------------------------------------------------------------------------------------------------------
def save(folder: Path, model, config, tokenizer, record: dict) -> None:
    import tempfile

    import torch
    from safetensors.torch import save

    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir()):
            write_atomic(folder / file.name, file.read_bytes())
    tensors = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()
               if name.startswith("roberta.") and not name.endswith("_ids")}  # fmt: skip
    write_atomic(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_atomic(folder / "pretraining.json", json.dumps(record, indent=1) + "\n")
