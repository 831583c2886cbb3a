"""Histograms of the row lengths of GLUE and E2E: ``lengths.json``, from which the benchmark draws its batches.

    python -m modules.efficiency.row_lengths --glue GLUE_DIR --tokenizer FOLDER --e2e E2E_DIR --gpt2 FOLDER

``--tokenizer`` is a folder with a tokenizer for GLUE: RoBERTa's, or one of similar granularity, which the file names.
``--gpt2`` is a folder with GPT-2's.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from modules.command_line import Parser, guarded
from variants.atomic import write_atomic

MAX_LENGTH = 512


def glue(folder: Path, tokenizer: Any) -> dict[str, list[tuple[int, int]]]:
    """(tokens, rows) of each task's training split."""
    from modules.benchmarks.glue.sources import read_tsv
    from modules.benchmarks.glue.tasks import TASKS

    rows = {}
    for task in TASKS.values():
        texts = read_tsv(folder / task.folder / "train.tsv", task, skip_short=True)[0].texts
        encoded = tokenizer(*map(list, zip(*texts, strict=True)), truncation=True, max_length=MAX_LENGTH)["input_ids"]
        rows[task.name] = sorted(Counter(map(len, encoded)).items())
    return rows


def e2e(folder: Path, tokenizer: Any) -> dict[str, list[tuple[int, int, int]]]:
    """(tokens, rows, mean number of target tokens) of the training split in the LoRA authors' form."""
    from modules.benchmarks.e2e import TASK
    from modules.benchmarks.e2e.data import encode
    from modules.benchmarks.e2e.sources import FolderSource

    source = FolderSource(folder)
    splits = source.load(TASK)
    tokens = encode(splits, tokenizer, MAX_LENGTH, "authors", "lengths")["train"]
    targets: dict[int, list[int]] = defaultdict(list)
    for length, count in zip(tokens.lengths.tolist(), tokens.labels.tolist(), strict=True):
        targets[length].append(count)
    return {"e2e": [(n, len(t), round(sum(t) / len(t))) for n, t in sorted(targets.items())]}


def main() -> int:
    """Write ``lengths.json``; returns the exit code."""
    parser = Parser(__doc__)
    for name, text in (
        ("glue", "GLUE's TSV folders"),
        ("tokenizer", "tokenizer"),
        ("e2e", "E2E's files"),
        ("gpt2", ""),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--name", default="", help="how the file calls the tokenizer for GLUE")
    options = parser.parse_args()
    import transformers

    from modules.efficiency.steps.batches import LENGTHS

    tokenizer, gpt2 = (
        transformers.AutoTokenizer.from_pretrained(f, trust_remote_code=False)
        for f in (options.tokenizer, options.gpt2)
    )
    tables = {
        "glue": {
            "source": "training splits of GLUE; a row is (tokens with special tokens, rows)",
            "tokenizer": options.name or options.tokenizer.resolve().name,
            "rows": glue(options.glue, tokenizer),
        },
        "e2e": {
            "source": "E2E NLG training set in the LoRA authors' form; (tokens, rows, mean target tokens)",
            "tokenizer": "GPT-2's",
            "rows": e2e(options.e2e, gpt2),
        },
    }
    text = json.dumps(tables).replace("]], ", "]],\n").replace('"rows": {', '"rows": {\n')
    write_atomic(LENGTHS, text + "\n")
    print("written:", LENGTHS)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
