"""What ships with the project so that it runs anywhere: a small RoBERTa and eight GLUE-shaped tasks, a small GPT-2 and
restaurants in E2E's shape (`restaurants`; `prose` is what the GPT-2 has read), a small LLaMA and instructions
(`instructions`, with what the LLaMA has read; `skills`).

GLUE's tasks are drawn from a grammar with meaning (`facts`, `wellformed`, `opinion`), deterministic by seed on every
Python. Training sentences use the leading part of the vocabulary, evaluation sentences all of it, so that a model
must rely on what pretraining taught it about the other words. Most sentences contain a clause beside the point, which
pretraining never showed: the frozen backbone stumbles there, and an adapted one learns not to. Importing this package
is cheap.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from variants.errors import UserError

ROBERTA = Path(__file__).parent / "roberta"
"""Folder of the small RoBERTa: config.json, model.safetensors (fp16), tokenizer."""
GPT2 = Path(__file__).parent / "gpt2"
"""Folder of the small GPT-2, in the same form."""
LLAMA = Path(__file__).parent / "llama"
"""Folder of the small LLaMA, in the same form, with a chat template."""
SPRITES = Path(__file__).parent / "dit"
"""Folder of the small diffusion transformer, in diffusers' form: transformer, scheduler, words.json."""
UNET = Path(__file__).parent / "unet"
"""Folder of the small UNet, in diffusers' form: unet, scheduler, words.json."""
FOLDERS = {
    "embedded-roberta": ROBERTA, "embedded-gpt2": GPT2, "embedded-llama": LLAMA,
    "embedded-dit": SPRITES, "embedded-unet": UNET,
}  # fmt: skip
"""By the names that result and adapter files give them, and that --model takes."""


def is_embedded(spec: object) -> bool:
    """Whether --model names a model that ships: "embedded", which each benchmark has its own of, or one by its name."""
    return str(spec) == "embedded" or str(spec) in FOLDERS


def folder_of(model_type: str) -> Path:
    """The folder of the small model of an architecture, by transformers' name of it: what `embedded` stands for in the
    commands of `variants`, which find this function by its entry point.

    Raises:
        UserError: none of that architecture ships.
    """
    if (folder := Path(__file__).parent / model_type) not in FOLDERS.values():
        raise UserError(f"no embedded model is a {model_type!r}: name the base model by its folder or Hub id")
    return folder


SIZES = {  # training rows, rows of each evaluation split
    "mnli": (3000, 600), "sst2": (2000, 800), "mrpc": (2000, 600), "cola": (2500, 800), "qnli": (2000, 800),
    "qqp": (2500, 800), "rte": (2000, 600), "stsb": (2000, 600),
}  # fmt: skip
NOISE = 0.03
"""Share of wrong labels where there are classes, in training and evaluation alike: nobody can be right about these."""
SEEN = 0.75
"""Share of the vocabulary that training sentences use."""

Rows = tuple[list[tuple[str, ...]], "list[int] | list[float]"]


def generate(task: str, seed: int = 0) -> dict[str, Rows]:
    """All splits of a task: split -> (texts, labels).

    Texts are tuples of one or two sentences, in the order of the task's fields in nyu-mll/glue; labels are its
    integers (STS-B: floats from 0 to 5). Classes are balanced, no text occurs twice.

    Raises:
        KeyError: no such task.
    """
    from .glue import TASKS
    from .lexicon import Lexicon

    make = TASKS[task]
    train, held = SIZES[task]
    domains = {"train": ("town", "country"), "validation": ("town", "country")}
    if task == "mnli":
        domains = {"train": ("town",), "validation_matched": ("town",), "validation_mismatched": ("country",)}
    seen: set[tuple[str, ...]] = set()
    return {
        split: _rows(make, task, split, seed, train if split == "train" else held,
                     Lexicon(where, SEEN if split == "train" else 1.0), seen)
        for split, where in domains.items()
    }  # fmt: skip


def shipped() -> dict[str, dict[str, Any]]:
    """``sizes`` of the splits and content ``hash`` of each task with seed 0."""
    return json.loads((Path(__file__).parent / "glue.json").read_text())


def _rows(make, task: str, split: str, seed: int, count: int, words, seen: set[tuple[str, ...]]) -> Rows:
    from .lexicon import Dice

    dice = Dice("glue", task, split, seed)
    classes = 3 if task == "mnli" else 2
    texts: list[tuple[str, ...]] = []
    labels: list = []
    while len(texts) < count:
        row, label = make(dice, words, dice.below(classes))
        if row in seen:
            continue
        seen.add(row)
        texts.append(row)
        wrong = task != "stsb" and dice.chance(NOISE)
        labels.append((label + 1 + dice.below(classes - 1)) % classes if wrong else label)
    return texts, labels
