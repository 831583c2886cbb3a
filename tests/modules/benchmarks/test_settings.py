"""Training settings: a run uses the dataclass with its defaults, and is named by the dictionary that was given."""

from __future__ import annotations

import dataclasses

import pytest

from modules.benchmarks.base import BENCHMARKS, batch_sizes, benchmark, settings_of
from modules.benchmarks.dreambooth.settings import PictureSettings
from modules.benchmarks.e2e import E2E
from modules.benchmarks.glue import GLUE
from modules.benchmarks.recipes import load_recipe
from modules.benchmarks.settings import TrainingSettings, described
from modules.paths import PROJECT
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from variants.errors import UserError

NEEDED = {"lr": 1e-3, "batch_size": 32, "epochs": 3, "max_length": 128}
COMMON = {
    "warmup_ratio": 0.0,
    "warmup_steps": None,
    "weight_decay": 0.0,
    "adam_eps": 1e-8,
    "gradient_clip_val": 0.0,
    "pad": "bucket",
    "quantise": None,
    "precision": "32-true",
}
OWN = {
    "instruct": {
        "loss_on": "responses",
        "template": None,
        "scores": None,
        "train_embeddings": None,
        "beams": 1,
        "max_new_tokens": 128,
        "decode_batch_size": 32,
        "score_epoch": "best",
        "model_dropout": None,
    },
    "dreambooth": {
        "repeats": 1,
        "prompt_dropout": 0.1,
        "prior_weight": 0.0,
        "prior_pictures": 48,
        "snr_gamma": 0.0,
        "ema": 0.0,
        "resolution": None,
        "paint_steps": 20,
        "guidance": 3.0,
        "shown": 16,
        "paint_seeds": 1,
        "scores": None,
        "clip_model": "openai/clip-vit-base-patch32",
        "dino_model": "facebook/dinov2-small",
        "strengths": None,
        "score_epoch": "last",
    },
    "glue": {"head_lr": None, "cls_dropout": None, "select": "dev"},
    "custom": {"head_lr": None, "cls_dropout": None, "metric": None},
    "e2e": {
        "label_smoothing": 0.0,
        "model_dropout": None,
        "linearisation": "authors",
        "beams": 10,
        "length_penalty": 1.0,
        "no_repeat_ngram": 0,
        "max_new_tokens": 64,
        "decode_batch_size": 16,
        "score_epoch": "best",
    },
}
each = pytest.mark.parametrize("name", BENCHMARKS)


@each
def test_the_defaults_are_those_that_committed_results_were_made_with(name):
    assert dataclasses.asdict(benchmark(name).settings.of(NEEDED)) == NEEDED | COMMON | OWN[name]


@each
def test_a_given_value_is_used_as_it_is(name):
    training = NEEDED | {"weight_decay": 0.1, "warmup_steps": 5, "precision": "bf16-mixed"}
    config = RunConfig(name, "rte", "lora", {}, "paper", 0, {"hash": "b"}, {"hash": "d"}, dict(training))
    settings = settings_of(config)
    assert (settings.weight_decay, settings.warmup_steps, settings.precision) == (0.1, 5, "bf16-mixed")
    assert config.training == training, "the dictionary that the id hashes gains no default"


@each
@pytest.mark.parametrize("lacking", NEEDED)
def test_a_setting_without_default_must_be_given(name, lacking):
    given = {key: value for key, value in NEEDED.items() if key != lacking}
    if lacking == "max_length" and name == "dreambooth":  # which has a default there
        return
    with pytest.raises(UserError, match=f"'{lacking}' is missing: give it by --{lacking}"):
        benchmark(name).settings.of(given)


@each
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr": 0}, "lr must be a positive number, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a positive whole number"),
        ({"warmup_ratio": -1}, "warmup_ratio must be a non-negative number"),
        ({"epochs": True}, "epochs must be a positive whole number"),
        ({"pad": "longest"}, "pad must be one of bucket, max, got 'longest'"),
        ({"learning_rat": 1}, "unknown key 'learning_rat'"),
    ],
)
def test_a_value_out_of_range_is_refused(name, change, says):
    for refuse in (benchmark(name).settings.of, lambda given: benchmark(name).settings.check(given, "here")):
        with pytest.raises(UserError, match=says):
            refuse(NEEDED | change)


@each
def test_recipes_and_flags_may_give_every_setting_but_the_precision(name):
    settings = benchmark(name).settings
    assert set(described(settings)) - set(settings.flags()) == {"precision"}
    assert all(setting.help for setting in described(settings).values())
    with pytest.raises(UserError, match="unknown key 'precision'"):
        settings.check({"precision": "32-true"}, "here")


def test_help_states_the_default_where_there_is_one():
    texts = {name: setting.described for name, setting in E2E.settings.flags().items()}
    assert texts["beams"].endswith("(default: 10)") and texts["adam_eps"].endswith("(default: 1e-08)")
    assert "default" not in texts["lr"] and texts["model_dropout"].endswith("(default: its own)")


def test_committed_results_have_settings_that_are_known():
    stores = [ResultStore(path.parent) for path in (PROJECT / "results" / "reference").rglob("runs") if path.is_dir()]
    results = [result for store in stores for result in store.all()]
    assert results
    for result in results:
        benchmark(result.benchmark).settings.of(result.training)


def test_accumulation_divides_a_batch():
    assert batch_sizes(32, {}) == {"batch_size": 32, "eval_batch_size": 128}
    assert batch_sizes(32, {"accumulate_grad_batches": 4}) == {"batch_size": 8, "eval_batch_size": 128}
    with pytest.raises(UserError, match="cannot be split over accumulate_grad_batches=5"):
        batch_sizes(32, {"accumulate_grad_batches": 5})


@each
def test_the_tasks_of_all_benchmarks_have_one_interface(name):
    own = benchmark(name).on({"data": "rows.csv"})
    assert own.name == name and all(key == task.name for key, task in own.tasks.items())
    for task in own.tasks.values():
        assert task.title and task.eval_splits
        assert task.column in task.metrics or name == "custom"  # it is known with the rows
    assert {column.task for column in own.columns} <= set(own.tasks)
    assert set(own.later_tasks) < set(own.tasks) and (own.first_task in own.tasks) == bool(own.later_tasks)


def test_scores_of_e2e_are_the_metrics_of_its_task():
    from modules.scores import FORMULAS

    assert E2E.tasks["e2e"].metrics == tuple(FORMULAS)


def test_there_is_no_recipe_of_another_benchmark():
    assert load_recipe("embedded", "embedded", "lora", "rte", GLUE).task == "rte"
    with pytest.raises(TypeError):
        load_recipe("embedded", "embedded", "lora", "rte")


def test_steps_of_an_epoch_count_repeated_pictures():
    given = {"lr": 1.0, "batch_size": 8, "epochs": 2, "max_length": 10}
    assert TrainingSettings.of(given).steps_per_epoch(24) == 3
    assert PictureSettings.of(given | {"repeats": 15}).steps_per_epoch(24) == 45
