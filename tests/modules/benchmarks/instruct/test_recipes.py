"""Recipes and published rows of instruction tuning: the papers' figures, typed in here a second time."""

import pytest

from modules.benchmarks.instruct import INSTRUCT
from modules.benchmarks.recipes import load_file, load_recipe
from modules.reports.papers.paper_rows import command, paper_rows
from modules.reports.tables.build import build
from modules.reports.tables.published import load_published
from paper_repro import PUBLISHED
from tests.support.results import run
from variants import resolve

FILES = sorted(INSTRUCT.configs.glob("*/*.yaml"))
ROWS = load_published(PUBLISHED, "instruct")
SETS = [f"commonsense_{part.name}" for part in INSTRUCT.tasks["commonsense"].parts]
TABLE_8 = {  # learning rates of DoRA at r=32 and r=16
    "llama-7b": (1e-4, 2e-4),
    "llama-13b": (2e-4, 3e-4),
    "Llama-2-7b-hf": (2e-4, 2e-4),
    "Meta-Llama-3-8B": (1e-4, 1e-4),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_file_is_complete(path):
    content = load_file(path, INSTRUCT)
    assert (content.backbone, content.protocol) == (path.parent.name, path.stem)
    for variant, entry in content.variants.items():
        for task in entry.tasks or INSTRUCT.tasks:
            recipe = load_recipe(content.backbone, str(path), variant, task, INSTRUCT)
            assert recipe.source and recipe.seeds and INSTRUCT.settings.of(recipe.training)
            if variant != "default":
                resolve(variant)(**recipe.options)


@pytest.mark.parametrize("backbone", TABLE_8)
def test_dora_on_llama_is_table_8(backbone):
    for protocol, r, lr in zip(("paper", "paper-dagger"), (32, 16), TABLE_8[backbone], strict=True):
        recipe = load_recipe(f"anyone/{backbone}", protocol, "dora", "commonsense", INSTRUCT)
        assert recipe.options == {"r": r, "alpha": 2 * r, "dropout": 0.05, "target": "q,k,v,up,down"}
        found = {name: recipe.training[name] for name in ("lr", "batch_size", "epochs", "warmup_steps")}
        assert found == {"lr": lr, "batch_size": 16, "epochs": 3, "warmup_steps": 100} and "Table 8" in recipe.source
        assert protocol in INSTRUCT.presets


def test_llm_adapters_lora_is_its_command():
    recipe = load_recipe("huggyllama/llama-7b", "llm-adapters", "lora", "arithmetic", INSTRUCT)
    assert recipe.options == {"r": 32, "alpha": 64, "dropout": 0.05, "target": "q,k,v,up,down"}
    wanted = {"lr": 3e-4, "batch_size": 16, "epochs": 3, "max_length": 256, "max_new_tokens": 256, "beams": 4}
    assert {name: recipe.training[name] for name in wanted} == wanted
    commonsense = load_recipe("llama-13b", "llm-adapters", "lora", "commonsense", INSTRUCT)
    assert commonsense.training["max_new_tokens"] == 32


def test_without_regret_is_ten_times_the_rate_on_all_maps():
    path = str(INSTRUCT.configs / "default" / "without-regret.yaml")
    full, lora = (load_recipe("any/model", path, name, "arithmetic", INSTRUCT) for name in ("full", "lora"))
    assert lora.training["lr"] == pytest.approx(10 * full.training["lr"]) and lora.training["batch_size"] < 32
    assert lora.options["target"] == "all-linear" and lora.options["alpha"] == 32


# ---- published rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table}-{row.model}-{row.method}")
def test_a_printed_mean_follows_from_its_sets(row):
    """But for a rounding of the last digit, where nothing else is said."""
    (key,) = (name for name in row.scores if name.endswith("_average"))
    own = [score for name, score in row.scores.items() if name != key]
    assert len(own) == (8 if key.startswith("commonsense") else 4)
    assert sum(own) / len(own) == pytest.approx(row.scores[key], abs=0.0501 if not row.caution else 0.1001)
    assert set(row.scores) <= {column.key for column in INSTRUCT.columns} and row.arxiv and row.statistic


def test_published_figures_are_the_papers():
    def of(source, model, method):
        (row,) = (row for row in ROWS if (row.source, row.model, row.method) == (source, model, method))
        return row

    dora = of("DoRA, Table 1", "llama-7b", "DoRA")
    assert [dora.scores[name] for name in SETS] == [69.7, 83.4, 78.6, 87.2, 81.0, 81.9, 66.2, 79.2]
    assert (dora.scores["commonsense_average"], dora.params, dora.mark) == (78.4, "0.84%", "run")
    half = of("DoRA, Table 1", "Meta-Llama-3-8B", "DoRA, rank halved")
    assert half.scores["commonsense_hellaswag"] == 95.5 and half.protocol == "paper-dagger"
    lora = of("DoRA, Table 1", "llama-7b", "LoRA")
    assert lora.mark == "copied" and lora.scores["commonsense_average"] == 74.7
    assert {**lora.scores} == {**of(lora.repeats, "llama-7b", "LoRA").scores}
    maths = of("LLM-Adapters, arithmetic", "llama-13b", "LoRA").scores
    assert list(maths.values()) == [47.5, 18.5, 83.6, 54.6, 51.1]
    assert of("DoRA, Table 15", "llama-7b", "LoRA r=4").scores["commonsense_boolq"] == 2.3


def test_what_is_said_to_be_copied_is_the_same_where_it_was_printed_first():
    first = {(row.source, row.model, row.method.partition(" r=")[0]): row.scores for row in ROWS if not row.repeats}
    repeated = [row for row in ROWS if row.repeats]
    assert len(repeated) == 9
    for row in repeated:
        method = {"DoRA r=16": "DoRA, rank halved"}.get(row.method, row.method.partition(" r=")[0])
        assert first[row.repeats, row.model, method] == row.scores


def test_a_row_of_the_paper_has_the_command_that_runs_it():
    rows = {paper.name: paper for paper in paper_rows(PUBLISHED, "dora-1")}
    words = "--preset paper --model huggyllama/llama-7b --variant dora --tasks commonsense"
    assert command(rows["DoRA on llama-7b, 0.84%"]) == f"python paper_repro/instruct.py {words}"
    assert rows["Series on llama-7b, 0.99%"].reason == "no such method here"
    (low, *_), _ = paper_rows(PUBLISHED, "dora-15"), None
    assert "--r 4 --alpha 8" in command(low)


def test_published_rows_stand_beside_ours_and_only_where_they_have_our_columns():
    figures = {name: 0.5 for name in ("boolq_answer", "average_answer")}
    test = {"epoch": 1, **figures}
    own = run(benchmark="instruct", task="commonsense", variant="dora", metric="neg_perplexity", test=test)
    skills = run(benchmark="instruct", task="skills", variant="dora", metric="neg_perplexity", test={"epoch": 1})
    (section,) = build([own], INSTRUCT, ROWS)
    assert {row.method for row in section.published} == {
        "DoRA",
        "DoRA, rank halved",
        "DoRA r=4",
        "DoRA r=8",
        "DoRA r=64",
    }
    assert not build([skills], INSTRUCT, ROWS)[0].published
