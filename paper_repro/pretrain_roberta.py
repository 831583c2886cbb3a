"""Pretrain the small RoBERTa that ships with the project, by masked language modelling on the embedded corpus.

    python paper_repro/pretrain_roberta.py                                        # as the shipped weights were made
    python paper_repro/pretrain_roberta.py --steps 300 --documents 20000 --out /tmp/roberta       # a short try

Some documents (--hide) drop the discourse word between their sentences; then <s> has to predict it, as if it stood
there. This gives <s>, which the task heads read, something to say about sentences and pairs.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

from modules.command_line import guarded
from modules.embedded import ROBERTA
from modules.embedded.corpus import CONNECTIVES, vocabulary
from modules.paths import checkout
from modules.pretraining.masked_lm import build_config, build_tokenizer, corpus, save, train


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    def add(name: str, default: object, text: str) -> None:
        parser.add_argument(name, type=type(default), default=default, help=f"{text} (default %(default)s)")

    add("--steps", 30000, "optimizer steps")
    add("--batch_size", 512, "documents per step")
    add("--documents", 8_000_000, "corpus size; masks are drawn anew each time")
    add("--lr", 1.5e-3, "peak learning rate, with linear warm-up and decay")
    add("--hide", 0.5, "share of documents whose discourse word <s> must predict")
    add("--layers", 4, "transformer layers")
    add("--hidden", 128, "hidden size, 32 per head")
    add("--seed", 0, "seed of corpus, masks and initial weights")
    add("--device", "auto", "auto, cpu or cuda")
    add("--workers", os.cpu_count() or 1, "processes that write the corpus")
    add("--out", Path(ROBERTA), "folder to write: by default the one that ships with the project")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.out == ROBERTA:
        checkout("name a folder with --out; without it the model that ships with a checkout is replaced")
    import torch
    import transformers

    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if options.device == "auto" else options.device)
    words = vocabulary(options.seed)
    tokenizer, ids = build_tokenizer(words)
    config = build_config(len(ids), options.layers, options.hidden)
    rows = corpus(options.seed, options.documents, options.hide, ids, options.workers)
    start = time.time()
    model, loss, shares = train(options, config, rows, [ids[word] for word in CONNECTIVES], device)
    parameters = sum(p.numel() for p in model.roberta.parameters())
    kept = ("steps", "batch_size", "documents", "hide", "lr", "seed", "layers", "hidden")
    record = {
        **{name: getattr(options, name) for name in kept},
        "loss": round(loss, 4),
        "discourse_words": {word: [round(x, 3) for x in pair] for word, pair in zip(CONNECTIVES, shares, strict=True)},
        "parameters": parameters, "vocabulary": len(ids),
        "seconds": round(time.time() - start, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    save(options.out, model, config, tokenizer, record)
    (options.out / "checkpoint.pt").unlink()
    print(f"{parameters:,} parameters, loss {loss:.3f}, written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
