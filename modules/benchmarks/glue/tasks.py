"""The eight GLUE tasks of the papers' tables: fields, labels, metrics and dev splits.

Fields are the columns of the texts in `nyu-mll/glue`, and the integer order of the labels is its order; folders are
those of the official TSV download. The first metric is the one that Table 2 of the LoRA paper (Hu et al., 2021) prints:
overall accuracy for MNLI (matched and mismatched rows pooled), Matthews correlation for CoLA, Pearson correlation for
STS-B, accuracy elsewhere. This module imports nothing heavy, so that `--help` may use it.
"""

from __future__ import annotations

from dataclasses import dataclass

from modules.benchmarks.text.task import TextTask


@dataclass(frozen=True, kw_only=True)
class GlueTask(TextTask):
    """A task of GLUE; `folder` is that of the official TSV download."""

    folder: str


_ENTAILMENT = ("entailment", "not_entailment")

# In the order of the columns of the LoRA paper's Table 2.
TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            name="mnli",
            title="MNLI",
            folder="MNLI",
            fields=("premise", "hypothesis"),
            labels=("entailment", "neutral", "contradiction"),
            metrics=("accuracy", "accuracy_matched", "accuracy_mismatched"),
            eval_splits=("validation_matched", "validation_mismatched"),
        ),
        GlueTask(
            name="sst2",
            title="SST-2",
            folder="SST-2",
            fields=("sentence",),
            labels=("negative", "positive"),
            metrics=("accuracy",),
        ),
        GlueTask(
            name="mrpc",
            title="MRPC",
            folder="MRPC",
            fields=("sentence1", "sentence2"),
            labels=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
        ),
        GlueTask(
            name="cola",
            title="CoLA",
            folder="CoLA",
            fields=("sentence",),
            labels=("unacceptable", "acceptable"),
            metrics=("matthews", "accuracy"),
        ),
        GlueTask(
            name="qnli",
            title="QNLI",
            folder="QNLI",
            fields=("question", "sentence"),
            labels=_ENTAILMENT,
            metrics=("accuracy",),
        ),
        GlueTask(
            name="qqp",
            title="QQP",
            folder="QQP",
            fields=("question1", "question2"),
            labels=("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
        ),
        GlueTask(
            name="rte",
            title="RTE",
            folder="RTE",
            fields=("sentence1", "sentence2"),
            labels=_ENTAILMENT,
            metrics=("accuracy",),
        ),
        GlueTask(
            name="stsb",
            title="STS-B",
            folder="STS-B",
            fields=("sentence1", "sentence2"),
            metrics=("pearson", "spearman"),
        ),
    )
}
