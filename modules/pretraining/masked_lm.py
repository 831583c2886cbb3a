"""Pretraining of a small RoBERTa on the embedded corpus, by masked language modelling."""

from __future__ import annotations

import math
import time
from functools import partial

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from modules.embedded.corpus import CONNECTIVES, vocabulary
from modules.pretraining.masked_corpus import BOS, EOS, PAD, SPECIAL, corpus
from modules.pretraining.masked_rows import POOL, batches
from modules.pretraining.model_folder import machine, pick_device, write_model_folder
from modules.pretraining.settings import MaskedSettings
from modules.pretraining.training_step import Batch, TrainingStep
from modules.runs.checkpoints import read_checkpoint, write_checkpoint
from variants.errors import UserError


def pretrain(settings: MaskedSettings) -> int:
    """Train a RoBERTa, write its folder, and print a line about it. Returns the exit code."""
    device = pick_device(settings.device)
    tokenizer, ids = build_tokenizer(vocabulary(settings.seed))
    config = build_config(len(ids), settings.layers, settings.hidden)
    rows = torch.from_numpy(corpus(settings.seed, settings.documents, settings.hide, ids, settings.workers))
    start = time.time()
    model, loss, shares = train(settings, config, rows, [ids[word] for word in CONNECTIVES], device)
    parameters = sum(p.numel() for p in model.roberta.parameters())
    kept = ("steps", "batch_size", "documents", "hide", "lr", "seed", "layers", "hidden")
    record = {
        **{name: getattr(settings, name) for name in kept},
        "loss": round(loss, 4),
        "discourse_words": {word: [round(x, 3) for x in pair] for word, pair in zip(CONNECTIVES, shares, strict=True)},
        "parameters": parameters, "vocabulary": len(ids),
        "seconds": round(time.time() - start, 1),
        **machine(device),
    }  # fmt: skip
    tensors = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith("roberta.") and not name.endswith("_ids")
    }
    write_model_folder(settings.out, config, tokenizer, tensors, record)
    (settings.out / "checkpoint.pt").unlink()
    print(f"{parameters:,} parameters, loss {loss:.3f}, written to {settings.out}")
    return 0


# ---- model and tokenizer ------------------------------------------------------------------------------------------


def build_tokenizer(words: list[str]) -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    """(a tokenizer with a token for each word, ids by word)."""
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


def build_config(vocab_size: int, layers: int, hidden: int) -> RobertaConfig:
    """Configuration of a small RoBERTa with heads of width 32."""
    return RobertaConfig(
        vocab_size=vocab_size, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden, max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5,
        bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS, dtype="float32", architectures=["RobertaModel"],
    )  # fmt: skip


# ---- training -----------------------------------------------------------------------------------------------------


def train(
    settings: MaskedSettings, config: RobertaConfig, rows: Tensor, connectives: list[int], device: torch.device
) -> tuple[RobertaForMaskedLM, float, list[list[float]]]:
    """Train on rows (N, LENGTH + 1); a killed training continues from the checkpoint in ``settings.out``.

    Args:
        connectives: ids of the discourse words.

    Returns:
        The model (fp32, on the CPU) and, over the last tenth of the steps, its loss and for each discourse word its
        shares of correct predictions, in the text and at <s>.

    Raises:
        UserError: the checkpoint is of a training with other settings.
    """
    torch.manual_seed(settings.seed)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0  # masks are always new: nothing to overfit
    model = RobertaForMaskedLM(config).to(device)
    ties = torch.tensor(connectives, device=device)
    train_step = TrainingStep(partial(_compute, model, ties), model, settings.lr, 0.01, settings.reference)
    steps = math.ceil(settings.steps / POOL) * POOL
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        train_step.optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    counts = torch.zeros(len(connectives), 4, device=device)  # right and seen, in the text and at <s>
    losses = torch.zeros(2, device=device)
    state = {"model": model, "optimizer": train_step.optimizer, "schedule": schedule}
    checkpoint = settings.out / "checkpoint.pt"
    flags = {name: value for name, value in vars(settings).items() if name not in ("out", "reference")}
    done = 0
    parts = {*state, "done", "counts", "losses", "settings"}
    saved = read_checkpoint(checkpoint, "pretraining", lambda found: None if parts <= found.keys() else "is none of it")
    if saved:
        if saved["settings"] != flags:
            raise UserError(f"{checkpoint} is of a training with other flags; continue with those, or delete it")
        done, counts, losses = saved["done"], saved["counts"].to(device), saved["losses"].to(device)
        for name, part in state.items():
            part.load_state_dict(saved[name])
    rows = rows.to(device)
    start, every = time.time(), max(POOL, steps // 100 // POOL * POOL)
    pools = range(done // POOL, steps // POOL)
    drawn = batches(rows, ties, settings.batch_size, settings.seed, pools)

    for step, batch in enumerate(drawn, start=done + 1):
        loss, found = train_step(dict(zip(("inputs", "positions", "labels"), batch, strict=True)))
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
            settings.out.mkdir(parents=True, exist_ok=True)
            states = {name: part.state_dict() for name, part in state.items()}
            write_checkpoint(
                checkpoint, {**states, "done": step, "counts": counts, "losses": losses, "settings": flags}
            )
    print()
    shares = (counts[:, ::2] / counts[:, 1::2].clamp(min=1)).tolist()
    return model.float().cpu(), (losses[0] / losses[1]).item(), shares


def _compute(model: RobertaForMaskedLM, ties: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(loss, counts (discourse words, 4): correct and seen in the text, correct and seen at <s>)."""
    inputs, positions, labels = batch.values()
    seen = (inputs != PAD)[:, None, None, :]  # with four dimensions transformers does not look at its values
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.is_cuda):
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
    return told + hidden_words, torch.stack(found, 1)  # of equal weight: a row has many words and only one <s>
