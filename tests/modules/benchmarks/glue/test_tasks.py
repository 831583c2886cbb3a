"""The task table against the published facts of GLUE and of the papers' tables."""

import subprocess
import sys

import pytest

from modules.benchmarks.glue.tasks import TASKS

# (texts per row, outputs, metric of Table 2 of the LoRA paper): Wang et al. 2019, Table 1; Hu et al. 2021, Table 2.
PUBLISHED = {
    "mnli": (2, 3, "accuracy"),
    "sst2": (1, 2, "accuracy"),
    "mrpc": (2, 2, "accuracy"),
    "cola": (1, 2, "matthews"),
    "qnli": (2, 2, "accuracy"),
    "qqp": (2, 2, "accuracy"),
    "rte": (2, 2, "accuracy"),
    "stsb": (2, 1, "pearson"),
}


def test_tasks_are_in_the_order_of_the_papers_columns():
    assert list(TASKS) == list(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_task_matches_the_papers(name):
    task = TASKS[name]
    assert (len(task.fields), task.num_labels, task.column) == PUBLISHED[name]
    assert task.name == name and task.column in task.metrics
    assert (task.kind == "score") == (name == "stsb")
    assert task.problem_type == ("regression" if name == "stsb" else "single_label_classification")


def test_integer_order_of_labels_is_the_hubs():
    # In nyu-mll/glue entailment is 0, and the positive class of the binary tasks (F1, Matthews) is 1.
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert all(TASKS[name].labels[0] == "entailment" for name in ("rte", "qnli"))
    positive = {"cola": "acceptable", "sst2": "positive", "mrpc": "equivalent", "qqp": "duplicate"}
    assert {name: TASKS[name].labels[1] for name in positive} == positive


def test_only_mnli_has_two_dev_splits():
    assert {name: len(task.eval_splits) for name, task in TASKS.items() if len(task.eval_splits) > 1} == {"mnli": 2}


def test_import_is_light():
    heavy = "{'torch', 'transformers', 'lightning', 'numpy'}"
    code = f"import sys, modules.benchmarks.glue.tasks; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
