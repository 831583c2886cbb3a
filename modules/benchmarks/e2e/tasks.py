"""The one task of E2E NLG: trained on "train", its best epoch picked on "validation", scored on "test"."""

from __future__ import annotations

from modules.data.task import Task

TASK = Task(
    name="e2e",
    title="E2E",
    fields=("mr",),
    metrics=("BLEU", "NIST", "NIST_python", "METEOR", "ROUGE_L", "CIDEr"),
)
TASKS: dict[str, Task] = {TASK.name: TASK}
