"""Rows of the papers' tables become runs, or say why they cannot."""

import shutil
from pathlib import Path

import pytest

from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from modules.experiments.published_runs import planned_runs
from tests.support.paper_rows import wishes
from variants.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def test_a_row_becomes_its_recipes_runs():
    able, skipped = wishes(words="roberta-base")
    assert [(w.variant, w.preset, w.model, w.options) for w in able] == [
        ("lora", "paper", "FacebookAI/roberta-base", {})
    ]
    assert len(skipped) == 4 and all("not run: [" in line for line in skipped)
    found = planned_runs(able[0])
    assert len(found) == 8 * 5 and {job.seed for job in found} == {0, 1, 2, 3, 4}
    by_task = {job.recipe.task: job for job in found}
    assert by_task["rte"].steps == 78 * 80 and by_task["rte"].start  # ceil(2,490 / 32) batches, 80 epochs
    assert by_task["mnli"].steps == 24_544 * 30 and not by_task["mnli"].start  # ceil(392,702 / 16)
    small, _ = wishes("adalora-1", "adalora 0.32M")
    assert small[0].options == {"init_r": 4, "target_r": 2}
    (only,) = wishes(words="roberta-base lora", tasks=["rte"], seeds=[7])[0]
    runs = [(run.recipe.task, run.seed) for run in planned_runs(only)]
    assert runs == [("mnli", 7), ("rte", 7)]  # it starts from MNLI


def test_rows_that_cannot_be_run_say_why():
    with pytest.raises(UserError, match="use paper_repro/e2e.py"):
        wishes("lora-3")
    with pytest.raises(UserError, match="GPT-3 175B are not public"):
        wishes("lora-6")
    with pytest.raises(UserError, match="copied the row.*--preset default"):
        wishes(words="bitfit")
    (fallback,), _ = wishes(words="adapter^d 0.9M", preset="default")
    assert (fallback.variant, fallback.preset, fallback.options) == ("adapter_d", "default", {"r": 48})
    with pytest.raises(UserError, match="--model stands for one backbone"):
        wishes(model="somewhere")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rows", "x"], "--rows needs --table"),
        (["--table", "lora-2", "--variant", "dora"], "leave --variant out"),
        (["--table", "lora-2", "--r", "4"], "leave --r out"),
        (["--table", "lora-2", "--rows", "lora roberta-base", "--tasks", "wnli"], "has no task of wnli"),
        (["--plan", "--budget", "1M", "--preset", "embedded"], "does not size"),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys):
    assert main(argv, GLUE) == 2
    assert words in (err := capsys.readouterr().err) and err.count("\n") == 1


@pytest.mark.slow
def test_a_table_is_run_and_fills(tiny_model, tiny_tsv, tmp_path, capsys, in_this_process):
    """A task of the row of LoRA's Table 2 on a model that has its name; what is done is not done again."""
    model, results = tmp_path / "roberta-base", tmp_path / "results"
    shutil.copytree(tiny_model, model)
    flags = ["--table", "lora-2", "--rows", "roberta-base lora", "--model", str(model), "--data_dir", str(tiny_tsv)]
    flags += ["--tasks", "rte", "--seeds", "0", "--epochs", "1", "--results_dir", str(results), "--wandb", "off"]
    flags += ["--trainer.accelerator", "cpu", "--jobs", "1"]
    assert main(flags, GLUE) == 0
    assert "2 runs;" in (out := capsys.readouterr().out) and "lora-2.md" in out  # MNLI, and RTE that starts from it
    table = (results / "tables" / "papers" / "lora-2.md").read_text()
    (ours,) = [line for line in table.splitlines() if "| ours " in line and "target=attn-qv r=8" in line]
    assert ours.count("†‡") == 1 and ours.count("‡") == 2 and "paper" in ours
    assert main([*flags, "--plan"], GLUE) == 0
    assert "2 runs, 2 done before" in (out := capsys.readouterr().out) and "nothing is missing" in out
