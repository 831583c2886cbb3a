"""compare.py: rows of a plan, budgets, what tuning picks, the order of runs, and the whole way on E2E."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from modules.benchmarks.base import benchmark
from modules.comparison import tuning
from modules.experiments.plan import make_plan
from modules.experiments.wishes import Wishes
from modules.launch import worker
from modules.runs.results import ResultStore
from paper_repro import compare
from tests.support.e2e_tiny import csv_folder, tiny_gpt2
from tests.support.results import run as result_of
from variants.errors import UserError
from variants.outside.options import build
from variants.registry import names, resolve

PLANS = sorted((Path(__file__).resolve().parents[3] / "configs" / "compare").glob("*.yaml"))


def plan_of(**changes) -> dict:
    return {
        "common": {"batch_size": 8, "max_length": 32, "warmup_ratio": 0.06, "weight_decay": 0.01},
        "tasks": {"rte": {"epochs": 1}, "mrpc": {"epochs": 2}},
        "tune": {"seed": 42, "tasks": ["rte"], "epochs": 3},
        "seeds": [0, 1],
        "variants": {
            "head": {"lr": 0.01, "seeds": [0]},
            "narrow": {"variant": "lora", "options": {"r": 1, "target": "q"}, "lr": [0.01, 0.02]},
            "wide": {"variant": "lora", "options": {"r": 2, "target": "q,v"}, "lr": [0.01, 0.02]},
        },
    } | changes


def first_point(row) -> dict:
    return {each.key: each.examples[0] for each in row.space}


def comparison_of(path: Path, **wishes) -> compare.Comparison:
    """The comparison of a file, as the command makes it; nothing is written to where it is by default."""
    content = compare.read(path)
    wishes = {"model": "embedded", "results_dir": "nowhere", "wandb": "off"} | wishes
    return compare.Comparison(path, content, Wishes(benchmark=benchmark(content.benchmark), **wishes))


@pytest.fixture
def made(tiny_model, tiny_tsv, tmp_path):
    """A comparison on the tiny RoBERTa, from the text of its plan."""

    def make(**changes) -> compare.Comparison:
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(plan_of(**changes)))
        return comparison_of(path, model=str(tiny_model), data_dir=str(tiny_tsv), results_dir=str(tmp_path / "results"))

    return make


@pytest.fixture
def workers(monkeypatch) -> list[list[str]]:
    """The lists of runs that workers would have been given."""
    given: list[list[str]] = []
    monkeypatch.setattr("modules.launch.jobs.launch.run_workers", lambda ids, *_: given.append(ids) or 0)
    return given


# ---- the plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_plans_of_the_project_are_read_and_their_variants_exist(path):
    plan = compare.read(path)
    comparison = comparison_of(path)
    rows = comparison.rows()
    for row in rows:
        build(resolve(row.variant), row.options)
    assert len({row.name for row in rows}) == len(rows) == len(plan.variants)
    assert len(plan.seeds) >= 3
    assert set(plan.tasks) <= set(comparison.benchmark.tasks)
    for row in rows:
        given = comparison.recipe(row.at(first_point(row)), tuning=bool(row.space))
        settings = yaml.safe_load(given)["variants"][resolve(row.variant).name]["common"]
        compare_settings(settings, comparison)


def compare_settings(settings, comparison):
    comparison.benchmark.settings.check(settings, "plan")


def test_the_rank_study_has_every_rank_on_every_set_of_matrices():
    (path,) = (path for path in PLANS if path.stem == "rank-study")
    rows = comparison_of(path).rows()
    found = [(row.options["target"], row.options["r"]) for row in rows]
    assert found == [(target, r) for target in ("q", "q,v", "q,k,v,o") for r in (1, 2, 4, 8, 64)]


def test_the_coverage_study_has_every_rank_on_every_set_of_matrices_on_nf4_and_full_fine_tuning():
    (path,) = (path for path in PLANS if path.stem == "coverage")
    full, *rows = comparison_of(path).rows()
    assert full.variant == "full" and "quantise" not in full.common
    assert {row.common["quantise"] for row in rows} == {"nf4"}
    found = [(row.options["target"], row.options["r"]) for row in rows]
    assert found == [(target, r) for target in ("attn-qv", "attn", "up,down", "all-linear") for r in (2, 8, 32)]


def test_every_method_that_can_train_on_few_bits_has_a_pair_that_differs_in_the_base_alone():
    """The dense ones of a file are runs of `methods-minilm.yaml`: one of its rates, all else alike."""
    plans = {path.stem: path for path in PLANS}
    rows = {row.name: row for row in comparison_of(plans["quantised-minilm"]).rows()}
    others = {row.name: row for row in comparison_of(plans["methods-minilm"]).rows()}
    ours = {each for each in names() if resolve(each).__module__.startswith("variants.methods.")}
    assert {row.variant for row in rows.values()} == ours - {"full", "ft_top2", "galore"}
    dense = {name: row for name, row in rows.items() if not name.endswith("-nf4")}
    assert len(rows) == 2 * len(dense)
    for name, row in dense.items():
        packed, tuned = rows[f"{name}-nf4"], others[name]
        assert packed.variant == row.variant and packed.options == row.options and packed.seeds == row.seeds
        assert packed.common == row.common | {"quantise": "nf4"} and packed.trainer == row.trainer
        (rates,) = tuned.space
        assert row.common["lr"] in rates.values and row.common == tuned.common | {"lr": row.common["lr"]}, name
        assert (row.variant, row.options, row.trainer) == (tuned.variant, tuned.options, tuned.trainer)
    tasks, all_tasks = (compare.read(plans[stem]).tasks for stem in ("quantised-minilm", "methods-minilm"))
    assert tasks.items() <= all_tasks.items()


@pytest.mark.parametrize("name", ["methods-minilm", "methods-e2e"])
def test_the_plans_of_all_methods_have_all_of_them_on_equal_terms(name):
    (path,) = (path for path in PLANS if path.stem == name)
    plan = compare.read(path)
    rows = comparison_of(path).rows()
    ours = {each for each in names() if resolve(each).__module__.startswith("variants.methods.")}  # tests register more
    assert {row.variant for row in rows} == ours
    for row in (row for row in rows if row.space):
        (rates,) = row.space
        steps = [b / a for a, b in itertools.pairwise(rates.values)]
        assert rates.key == "lr" and len(rates.values) == 5 and all(2.9 < step < 3.4 for step in steps), row.name
    assert len(plan.tune.trained) == len(plan.seeds) == 3 and plan.tune.epochs is None, "the schedule that is trained"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tune": {"seed": 1, "tasks": ["cola"]}}, "'cola' is none of the plan's tasks"),
        ({"benchmark": "glu"}, "benchmark must be one of glue, e2e"),
        ({"sedes": [1]}, "unknown key 'sedes'"),
        ({"seeds": []}, "lacks 'seeds'"),
        ({"variants": {"lora": {"lr": "5e-4"}}}, "lora: lr must be a number, a list or a range of numbers above 0"),
        ({"variants": {"lora": {"lr": 0.1, "option": {}}}}, "lora: unknown key 'option'"),
    ],
)
def test_what_is_wrong_with_a_plan_is_one_line(made, changes, says):
    with pytest.raises(UserError, match=says):
        made(**changes).rows()


def test_a_row_that_the_plan_lacks_is_named(made):
    with pytest.raises(UserError, match="no variant 'dora'; it has head, narrow, wide"):
        made().rows(["head", "dora"])


def test_a_file_brings_no_code(made, tmp_path):
    """peft #3085: what somebody else's file names runs at the caller's word alone."""
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    comparison = made(variants={"mine": {"variant": f"{evil}:X", "lr": 0.01}})
    with pytest.raises(UserError, match="a file brings no code, and .*--code"):
        comparison.rows(budgets=["1K"])
    assert not (tmp_path / "ran").exists()
    comparison.code = frozenset([f"{evil}:X"])
    assert [row.variant for row in comparison.rows()] == [f"{evil}:X"]


def test_option_sets_of_one_variant_are_rows_of_their_own(made, workers):
    comparison = made()
    narrow, wide = comparison.rows(["narrow", "wide"])
    runs = [run for row in (narrow, wide) for run in comparison.runs(row, {"lr": 0.01})]
    assert {(run.variant, run.options["r"], run.options["target"]) for run in runs} == {
        ("lora", 1, "q"),
        ("lora", 2, "q,v"),
    }
    assert len({run.id for run in runs}) == 2 * 2 * 2 and {run.seed for run in runs} == {0, 1}
    trial = comparison.runs(wide, {"lr": 0.02}, tuning=True)
    assert [(run.task, run.seed, run.training["epochs"], run.training["lr"]) for run in trial] == [("rte", 42, 3, 0.02)]


# ---- budgets ------------------------------------------------------------------------------------------------------


def test_budgets_lie_side_by_side(made, workers, capsys):
    """LoRA trains r x (16 + 16) parameters on each of the maps of two blocks."""
    comparison = made()
    rows = comparison.rows(budgets=["512", "0.256K"])
    assert [row.name for row in rows] == ["head", "narrow-512", "narrow-256", "wide-512", "wide-256"]
    assert [row.options.get("r") for row in rows] == [None, 8, 4, 4, 2]
    assert [row.budget and row.budget["counted"] for row in rows] == [None, 512, 256, 512, 256]
    assert "head has no size" in capsys.readouterr().out
    runs = [run for row in rows[3:] for run in comparison.runs(row, {"lr": 0.01})]
    assert {(run.options["r"], run.budget["wanted"]) for run in runs} == {(4, 512), (2, 256)}
    assert len({run.id for run in runs}) == 8
    comparison.carry_out(runs, comparison.results_dir)
    assert len(list((comparison.results_dir / "recipes").iterdir())) == 2


def test_a_variant_without_a_size_near_the_budget_stays_as_it_is(made, capsys):
    rows = made(variants={"ft_top2": {"lr": 0.1}}).rows(budgets=["100", "200"])
    assert [(row.name, row.budget) for row in rows] == [("ft_top2", None)]
    assert "not near" in capsys.readouterr().out


def test_the_table_names_the_budget():
    from modules.benchmarks.glue import GLUE
    from modules.reports.tables.build import build

    results = [
        result_of(variant_config__r=r, budget={"wanted": n, "counted": n}) for r, n in ((2, 18_432), (8, 73_728))
    ]
    (section,) = build(results, GLUE)
    assert [row.label.rpartition(" ")[2] for row in section.rows] == ["budget=18,432", "budget=73,728"]


# ---- tuning -------------------------------------------------------------------------------------------------------


def leave(comparison, row, lr, **changes) -> None:
    """Results of the tuning runs of a row with a learning rate."""
    store = ResultStore(comparison.results_dir / "tuning")
    for run in comparison.runs(row, {"lr": lr}, tuning=True):
        store.write(result_of(id=run.id, task=run.task, **changes))


@pytest.mark.parametrize(("metric", "picks"), [(None, 0.02), ("loss", 0.01)])
def test_tuning_picks_the_highest_metric_or_the_lowest_loss(made, workers, metric, picks):
    rule = {"seed": 42, "tasks": ["rte"]} | ({"metric": metric} if metric else {})
    comparison = made(tune=rule)
    head, row = comparison.rows(["head", "wide"])
    leave(
        comparison,
        row,
        0.01,
        epochs=[{"epoch": 1, "accuracy": 0.6, "loss": 0.3}, {"epoch": 2, "accuracy": 0.5, "loss": 0.2}],
    )
    leave(
        comparison,
        row,
        0.02,
        epochs=[{"epoch": 1, "accuracy": 0.7, "loss": 0.4}, {"epoch": 2, "accuracy": 0.5, "loss": 0.9}],
    )
    trials, code = tuning.search(comparison, [head, row])
    assert (tuning.choose(comparison, [head, row], trials), code) == ({"head": {}, "wide": {"lr": picks}}, 0)
    assert workers == [[]], "one learning rate needs no tuning, and what is done is not done again"


def test_a_diverged_run_is_not_picked_and_an_incomplete_grid_leaves_its_row_out(made, workers, capsys):
    comparison = made()
    narrow, wide = comparison.rows(["narrow", "wide"])
    leave(comparison, narrow, 0.01, epochs=[{"epoch": 1, "accuracy": 0.1}])
    leave(comparison, narrow, 0.02, epochs=[{"epoch": 1, "accuracy": 0.9}], cost__diverged=True)
    leave(comparison, wide, 0.02, epochs=[{"epoch": 1, "accuracy": 0.9}])
    trials, code = tuning.search(comparison, [narrow, wide])
    assert (tuning.choose(comparison, [narrow, wide], trials), code) == ({"narrow": {"lr": 0.01}}, 1)
    assert "wide is left out: 1 of 2 settings tried" in capsys.readouterr().out


def test_long_runs_come_first_and_rows_come_whole(made, workers):
    comparison = made()
    runs = [run for row in comparison.rows(["narrow", "wide"]) for run in comparison.runs(row, {"lr": 0.01})]
    comparison.carry_out(runs, comparison.results_dir)
    known = {run.id: run for run in runs}
    order = [(known[id].task, known[id].options["r"], known[id].seed) for id in workers[0]]
    assert order == [(task, r, seed) for task in ("mrpc", "rte") for r in (1, 2) for seed in (0, 1)]


def test_seeds_are_stacked_where_the_variant_can_be(made, workers):
    comparison = made(variants={"full": {"lr": 0.01}, "wide": {"variant": "lora", "options": {"r": 2}, "lr": 0.01}})
    comparison.stack = True
    runs = [run for row in comparison.rows() for run in comparison.runs(row, {})]
    comparison.carry_out(runs, comparison.results_dir)
    known = {run.id: run for run in runs}
    words = [[known[id] for id in word.split("+")] for word in workers[0]]
    assert sorted((word[0].variant, word[0].task, [run.seed for run in word]) for word in words) == [
        ("full", "mrpc", [0]), ("full", "mrpc", [1]), ("full", "rte", [0]), ("full", "rte", [1]),
        ("lora", "mrpc", [0, 1]), ("lora", "rte", [0, 1]),
    ]  # fmt: skip


def test_the_rates_of_a_search_are_stacked_with_its_seeds(made, workers, capsys):
    """A row's two ranks apart; of what cannot be stacked each run alone."""
    space = {"options": {"r": [1, 2]}, "lr": [0.01, 0.02, 0.04]}
    comparison = made(variants={"lora": space, "full": {"lr": [0.01, 0.02]}}, tune={"seeds": [5, 6], "tasks": ["rte"]})
    comparison.stack, comparison.stack_rates = True, 6
    rows = comparison.rows()
    runs = [
        run for row in rows for point in tuning.points(comparison, row) for run in comparison.runs(row, point, True)
    ]
    assert tuning.show_plan(comparison, rows) == 0
    said = capsys.readouterr().out
    assert "  rte lora r=1 lr=0.01 and r=1 lr=0.02 and r=1 lr=0.04 seed 5,6: " in said
    comparison.carry_out(runs, comparison.tuning)
    known = {run.id: run for run in runs}
    words = [[known[id] for id in word.split("+")] for word in workers[0]]
    assert [(w[0].variant, w[0].options.get("r"), [(run.seed, run.training["lr"]) for run in w]) for w in words] == [
        *(("lora", r, [(seed, lr) for seed in (5, 6) for lr in (0.01, 0.02, 0.04)]) for r in (1, 2)),
        *(("full", None, [(seed, lr)]) for lr in (0.01, 0.02) for seed in (5, 6)),
    ]
    comparison.stack_rates = 4  # two stacks of three: each has both seeds
    assert [len(group) for group in comparison.missing(runs, comparison.tuning)] == [3, 3, 3, 3, 1, 1, 1, 1]
    assert all(len({run.seed for run in group}) == 2 for group in comparison.missing(runs, comparison.tuning)[:4])


def test_only_the_missing_seeds_of_a_row_are_stacked(made, workers):
    comparison = made(variants={"wide": {"variant": "lora", "options": {"r": 2}, "lr": 0.01}}, seeds=[0, 1, 2])
    comparison.stack = True
    (row,) = comparison.rows()
    runs = comparison.runs(row, {})
    (done,) = (run for run in runs if (run.task, run.seed) == ("rte", 1))
    ResultStore(comparison.results_dir).write(result_of(id=done.id, task="rte"))
    comparison.carry_out(runs, comparison.results_dir)
    known = {run.id: run for run in runs}
    groups = [[(known[id].task, known[id].seed) for id in word.split("+")] for word in workers[0]]
    assert groups == [[("mrpc", 0), ("mrpc", 1), ("mrpc", 2)], [("rte", 0), ("rte", 2)]]


def test_a_plan_says_what_is_missing_and_trains_nothing(made, workers, capsys):
    comparison = made()
    comparison.stack = True
    rows = comparison.rows()
    leave(comparison, rows[1], 0.01, epochs=[{"epoch": 1, "accuracy": 0.6}])
    leave(comparison, rows[1], 0.02, epochs=[{"epoch": 1, "accuracy": 0.7}])
    assert tuning.show_plan(comparison, rows) == 0 and workers == []
    rte, mrpc = (comparison._source.sizes[task]["train"] for task in ("rte", "mrpc"))
    said = capsys.readouterr().out
    assert said.count("  rte wide lr=0.0") == 3 and "2 runs are missing" in said  # tuning: one for each rate
    assert f"  mrpc narrow lr=0.02 seed 0,1: {2 * -(-mrpc // 8):,} steps" in said
    assert f"10 runs are missing, {3 * (2 * -(-mrpc // 8) + -(-rte // 8)):,} steps" in said


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the content of files, None for folders."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("before", ["nothing", "trials"])
def test_a_plan_writes_nothing(made, workers, tmp_path, before):
    comparison = made()
    rows = comparison.rows()
    if before == "trials":
        tuning.search(comparison, rows)
        leave(comparison, rows[1], 0.01, epochs=[{"epoch": 1, "accuracy": 0.6}])
    found = content_of(tmp_path)
    flags = ["--model", str(comparison.wishes.model), "--data_dir", str(comparison.wishes.data_dir)]
    assert compare.main([str(comparison.path), *flags, "--results_dir", str(comparison.results_dir), "--plan"]) == 0
    assert content_of(tmp_path) == found
    assert (comparison.results_dir / "tuning" / "recipes").is_dir() == (before == "trials")


def test_a_recipe_is_the_same_wherever_backbone_and_file_lie_and_gives_the_run_again(made, workers, tmp_path):
    """What is committed must not depend on the machine, and a person with the backbone elsewhere must get the run."""
    comparison = made()
    row = comparison.rows(["wide"])[0]
    runs = comparison.runs(row, {"lr": 0.02})
    comparison.carry_out(runs, comparison.results_dir)
    recipe = comparison.results_dir / "recipes" / "wide.yaml"
    text = recipe.read_text()
    model = Path(comparison.wishes.model)
    content = yaml.safe_load(text)
    assert content["backbone"] == runs[0].backbone["name"] == model.resolve().name
    assert content["remarks"] == ["settings picked by plan.yaml"] and str(tmp_path) not in text
    elsewhere = tmp_path / "elsewhere" / model.resolve().name
    shutil.copytree(model, elsewhere)
    wishes = Wishes(
        benchmark=comparison.benchmark, variant="lora", preset=str(recipe), model=str(elsewhere), wandb="off",
        data_dir=comparison.wishes.data_dir,
    )  # fmt: skip
    assert {run.id for run in make_plan(wishes, resolve("lora")).runs} == {run.id for run in runs}


def test_a_file_of_the_project_is_named_from_its_folder():
    assert comparison_of(PLANS[0]).name == f"configs/compare/{PLANS[0].name}"


def test_tuning_may_have_trainer_options_of_its_own(made):
    comparison = made(tune={"seed": 7, "tasks": ["rte"], "trainer": {"accumulate_grad_batches": 2}})
    row = comparison.rows(["wide"])[0]
    assert comparison.runs(row, {"lr": 0.01}, tuning=True)[0].trainer == {"accumulate_grad_batches": 2}
    assert comparison.runs(row, {"lr": 0.01})[0].trainer == {}


# ---- the whole way ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_e2e_from_the_plan_to_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no Java: METEOR takes seconds
    monkeypatch.setattr("modules.launch.jobs.launch.run_workers", lambda ids, folder, *_: worker.main([folder, *ids]))
    plan = {
        "benchmark": "e2e",
        "seeds": [0],
        "trainer": {"accelerator": "cpu"},
        "common": {"batch_size": 16, "max_length": 80, "max_new_tokens": 6, "beams": 2, "no_repeat_ngram": 4},
        "tasks": {"e2e": {"epochs": 1}},
        "tune": {"seed": 7, "tasks": ["e2e"], "metric": "loss", "common": {"score_epoch": "none"}},
        "variants": {"head": {"lr": 0.1}, "small": {"variant": "lora", "options": {"r": 1}, "lr": [1e-6, 0.02]}},
    }
    path, results = tmp_path / "plan.yaml", tmp_path / "results"
    path.write_text(yaml.safe_dump(plan))
    model, data = tiny_gpt2(tmp_path / "tiny-gpt2"), csv_folder(tmp_path / "data")
    flags = ["--model", str(model), "--data_dir", str(data), "--results_dir", str(results), "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", ["compare.py", str(path), *flags])
    assert compare.main() == 0
    said = capsys.readouterr().out
    tuned = {r.training["lr"]: r for r in ResultStore(results / "tuning").all()}
    assert tuned[0.02].epochs[0]["loss"] < tuned[1e-6].epochs[0]["loss"]
    assert "chosen: small lr=0.02" in said
    assert not list((results / "tuning").glob("runs/*/test.txt")) and all(r.test is None for r in tuned.values())
    runs = {r.variant: r for r in ResultStore(results).all()}
    assert set(runs) == {"head", "lora"} and all(r.test["BLEU"] is not None for r in runs.values())
    assert (results / "tables" / "e2e.md").read_text().count("| tuned") == 2
    before = json.loads((results / "runs" / f"{runs['lora'].id}.json").read_text())
    assert compare.main() == 0 and "2 runs, 2 done before" in capsys.readouterr().out
    assert json.loads((results / "runs" / f"{runs['lora'].id}.json").read_text()) == before
