"""Pretrain a GPT-2 by next-token prediction: the small one that ships with the project, or one on your own text files.

    python paper_repro/pretrain_gpt2.py                                          # as the shipped weights were made
    python paper_repro/pretrain_gpt2.py --steps 100 --out tried-gpt2             # a short try
    python paper_repro/pretrain_gpt2.py --text a.txt.gz,b.txt --bpe FOLDER --layers 8 --hidden 512 --heads 8 \\
        --positions 512 --length 512 --batch_size 64 --lr 1e-3 --minutes 5 --out FOLDER               # on a GPU

Without --text the corpus is `modules/embedded/prose.py`, endless, with a word-level tokenizer. With it, --bpe names a
folder with the tokenizer files of GPT-2 (vocab.json and merges.txt, or tokenizer.json). Documents are separated by the
end token and packed into rows of --length tokens; one document in 200 is held out, and its loss reported. Tokens are
made by all cores and kept for the next call. The folder's pretraining.json says how its weights were made.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from modules.command_line import guarded
from modules.embedded import GPT2
from modules.embedded.prose import vocabulary
from modules.paths import checkout
from modules.pretraining.causal_lm import (
    byte_pairs,
    held_out_loss,
    prose_rows,
    save,
    stream_rows,
    train,
    word_tokenizer,
)

if TYPE_CHECKING:
    import torch


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    def add(name: str, default: object, text: str) -> None:
        parser.add_argument(name, type=type(default), default=default, help=f"{text} (default %(default)s)")

    add("--steps", 2500, "optimizer steps")
    add("--minutes", 0.0, "stop by then, the learning rate having fallen to 0 over that time; 0 counts steps alone")
    add("--batch_size", 16, "rows per step")
    add("--length", 128, "tokens per row")
    add("--lr", 4e-3, "peak learning rate, with linear warm-up and decay")
    add("--layers", 4, "transformer layers")
    add("--hidden", 128, "hidden size")
    add("--heads", 4, "attention heads")
    add("--positions", 256, "longest input of the model")
    add("--seed", 0, "seed of corpus, order and initial weights")
    add("--device", "auto", "auto, cpu or cuda")
    add("--weight_decay", 0.01, "of AdamW, on matrices")
    add("--text", "", "comma list of text files, plain, .gz, .bz2 or .xz, with empty lines between documents")
    add("--bpe", "", "folder of a GPT-2 tokenizer, for --text")
    add("--out", GPT2, "folder to write: by default the one that ships with the project")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if Path(options.out) == GPT2:
        checkout("name a folder with --out; without it the model that ships with a checkout is replaced")
    import torch
    import transformers
    from transformers import GPT2Config, GPT2LMHeadModel

    start = time.time()
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if options.device == "auto" else options.device)
    shape = (options.batch_size, options.length)
    tokens: dict[str, torch.Tensor] = {}
    if options.text:
        from modules.pretraining.corpus import token_stream

        tokenizer = byte_pairs(Path(options.bpe))
        streams = token_stream(options.text.split(","), tokenizer)
        print(f"tokens: {', '.join(f'{len(s):,} {n}' for n, s in streams.items())}, {time.time() - start:.0f} s")
        tokens = {name: torch.from_numpy(stream.astype("int32")).to(device) for name, stream in streams.items()}
        rows = stream_rows(tokens["train"], *shape, options.seed)
    else:
        tokenizer = word_tokenizer(vocabulary(options.seed))
        rows = prose_rows(options.seed, tokenizer, *shape)
    tokenizer.model_max_length = options.positions
    torch.manual_seed(options.seed)
    end = tokenizer.eos_token_id
    wide = -len(tokenizer) % 64 if options.text else 0  # rows of the embedding that no token has: the GPU likes 64s
    config = GPT2Config(
        vocab_size=len(tokenizer) + wide, n_positions=options.positions, n_embd=options.hidden,
        n_layer=options.layers, n_head=options.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    began = time.time()
    loss, steps = train(options, model, rows, device)
    trained = time.time() - began
    held_out = held_out_loss(model, tokens["held_out"], options.length) if tokens else None
    parameters = sum(p.numel() for p in model.parameters())
    kept = ("batch_size", "length", "lr", "weight_decay", "layers", "hidden", "heads", "positions", "seed")
    record = {
        "steps": steps,
        **{name: getattr(options, name) for name in kept},
        "corpus": [Path(name).name for name in options.text.split(",")] if options.text else "embedded prose",
        **{f"{name}_tokens": len(stream) for name, stream in tokens.items()},
        "tokens_seen": steps * options.batch_size * options.length,
        "loss": round(loss, 4), "held_out_loss": held_out and round(held_out, 4),
        "parameters": parameters, "vocabulary": len(tokenizer),
        "training_seconds": round(trained, 1), "seconds": round(time.time() - start, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    save(Path(options.out), model.cpu(), tokenizer, record)
    told = "" if held_out is None else f", held out {held_out:.3f}"
    print(f"{parameters:,} parameters, loss {loss:.3f}{told}, written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
