"""Recipes: every file is sound, and the figures are the papers' (typed in here a second time)."""

import pytest
import yaml

from modules.benchmarks.glue import GLUE
from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.recipes import NoRecipe, load_file, load_recipe, recipes_for
from variants.errors import UserError

CONFIGS = GLUE.configs
FILES = sorted(CONFIGS.glob("*/*.yaml"))
TASK_ORDER = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
VERA_ORDER = ("sst2", "mrpc", "cola", "qnli", "rte", "stsb")


def row(backbone, protocol, variant, key, tasks=TASK_ORDER):
    return [load_recipe(backbone, protocol, variant, task, GLUE).training[key] for task in tasks]


def options(backbone, protocol, variant, key, tasks):
    return [load_recipe(backbone, protocol, variant, task, GLUE).options[key] for task in tasks]


# ---- every file -------------------------------------------------------------------------------------------------


def test_there_are_recipes():
    assert len(FILES) >= 9


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_file_is_complete(path):
    content = load_file(path, GLUE)
    assert (content.backbone, content.protocol) == (path.parent.name, path.stem)
    for variant, entry in content.variants.items():
        for task in entry.tasks or TASKS:
            recipe = load_recipe(path.parent.name, path.stem, variant, task, GLUE)
            assert {"lr", "batch_size", "epochs", "max_length", "weight_decay"} <= set(recipe.training)
            assert len({"warmup_ratio", "warmup_steps"} & set(recipe.training)) == 1
            assert recipe.source and recipe.seeds and recipe.protocol == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_options_belong_to_the_variant(path):
    registry = pytest.importorskip("variants.registry", reason="the variants are not there yet")
    for variant, entry in load_file(path, GLUE).variants.items():
        try:
            known = set(getattr(registry.resolve(variant), "__dataclass_fields__", {}))
        except Exception:  # a variant that is not there yet, or the entry `default`
            continue
        for task in entry.tasks or TASKS:
            assert set(load_recipe(path.parent.name, path.stem, variant, task, GLUE).options) <= known, variant


@pytest.mark.parametrize("task", TASK_ORDER)
def test_embedded_and_default_know_every_variant_and_task(task):
    for variant in ("head", "full", "lora", "somebodys_own"):
        assert load_recipe("embedded", "embedded", variant, task, GLUE).training["lr"] > 0
        assert load_recipe("some/unheard-of-model", "default", variant, task, GLUE).source == "ours"


# ---- published figures ------------------------------------------------------------------------------------------


def test_roberta_base_lora_is_table_9():
    where = ("roberta-base", "paper", "lora")
    assert row(*where, "batch_size") == [16, 16, 16, 32, 32, 16, 32, 16]
    assert row(*where, "epochs") == [30, 60, 30, 80, 25, 25, 80, 40]
    assert row(*where, "lr") == [5e-4, 5e-4, 4e-4, 4e-4, 4e-4, 5e-4, 5e-4, 4e-4]
    assert set(row(*where, "max_length")) == {512} and set(row(*where, "warmup_ratio")) == {0.06}
    assert set(row(*where, "weight_decay")) == {0.1}
    recipe = load_recipe(*where, "rte", GLUE)
    assert recipe.options == {"r": 8, "alpha": 8, "target": "attn-qv"}
    assert recipe.seeds == (0, 1, 2, 3, 4) and "Table 9" in recipe.source
    assert any("alpha 8" in remark and "16" in remark for remark in recipe.remarks)


def test_roberta_large_lora_is_table_9():
    where = ("roberta-large", "paper", "lora")
    assert row(*where, "batch_size") == [4, 4, 4, 4, 4, 4, 8, 8]
    assert row(*where, "epochs") == [10, 10, 20, 20, 10, 20, 20, 30]
    assert row(*where, "lr") == [3e-4, 4e-4, 3e-4, 2e-4, 2e-4, 3e-4, 4e-4, 2e-4]
    assert row(*where, "max_length") == [128, 128, 512, 128, 512, 512, 512, 512]
    assert load_recipe(*where, "cola", GLUE).options["alpha"] == 16


def test_roberta_large_dagger_is_table_9():
    where = ("roberta-large", "paper-dagger", "lora")
    assert set(row(*where, "batch_size")) == {4} and set(row(*where, "max_length")) == {128}
    assert row(*where, "epochs") == [10, 10, 20, 20, 10, 20, 20, 10]
    assert row(*where, "lr") == [3e-4, 4e-4, 3e-4, 2e-4, 2e-4, 3e-4, 4e-4, 2e-4]
    assert not any(load_recipe(*where, task, GLUE).mnli_init for task in TASK_ORDER)


def test_the_official_scripts_use_8_gpus_and_alpha_16():
    where = ("roberta-base", "official", "lora")
    per_device, gpus = [16, 16, 16, 32, 32, 16, 32, 16], [8, 8, 8, 2, 8, 8, 8, 8]
    assert row(*where, "batch_size") == [batch * n for batch, n in zip(per_device, gpus, strict=True)]
    assert row(*where, "epochs") == [30, 60, 30, 80, 25, 25, 80, 40]
    assert load_recipe(*where, "mnli", GLUE).options == {"r": 8, "alpha": 16, "target": "attn-qv"}
    where = ("roberta-large", "official", "lora")
    assert row(*where, "batch_size") == [32, 64, 32, 32, 32, 32, 64, 32]
    assert row(*where, "lr") == [3e-4, 4e-4, 3e-4, 3e-4, 2e-4, 3e-4, 4e-4, 3e-4]
    assert row(*where, "epochs") == [10, 10, 20, 20, 10, 20, 20, 10]
    assert row(*where, "max_length") == [128, 512, 512, 128, 512, 512, 512, 128]


def test_vera_is_table_8():
    base = ("roberta-base", "paper", "vera")
    assert row(*base, "epochs", VERA_ORDER) == [60, 30, 80, 25, 160, 80]
    assert row(*base, "head_lr", VERA_ORDER) == [4e-3, 4e-3, 1e-2, 4e-3, 1e-2, 1e-2]
    assert row(*base, "lr", VERA_ORDER) == [4e-3, 1e-2, 1e-2, 1e-2, 4e-3, 1e-2]
    assert set(row(*base, "batch_size", VERA_ORDER)) == {64} and set(row(*base, "max_length", VERA_ORDER)) == {512}
    assert options(*base, "r", VERA_ORDER) == [1024] * 6
    large = ("roberta-large", "paper", "vera")
    assert row(*large, "epochs", VERA_ORDER) == [10, 40, 40, 20, 40, 20]
    assert row(*large, "head_lr", VERA_ORDER) == [6e-3, 3e-3, 6e-3, 2e-4, 2e-3, 2e-3]
    assert row(*large, "lr", VERA_ORDER) == [1e-2, 3e-2, 1e-2, 1e-2, 2e-2, 2e-2]
    assert set(row(*large, "batch_size", VERA_ORDER)) == {4 * 32}
    assert options(*large, "r", VERA_ORDER) == [256] * 6


def test_adalora_is_tables_7_and_8():
    tasks = ("mnli", "rte", "qnli", "mrpc", "qqp", "sst2", "cola", "stsb")
    where = ("deberta-v3-base", "paper", "adalora")
    assert row(*where, "lr", tasks) == [5e-4, 1.2e-3, 1.2e-3, 1e-3, 5e-4, 8e-4, 5e-4, 2.2e-3]
    assert row(*where, "epochs", tasks) == [7, 50, 5, 30, 5, 24, 25, 25]
    assert set(row(*where, "batch_size", tasks)) == {32}
    assert options(*where, "orth_weight", tasks) == [0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.5, 0.1]
    assert options(*where, "tinit", tasks) == [8000, 600, 2000, 600, 8000, 6000, 800, 800]
    assert options(*where, "deltaT", tasks) == [100, 1, 100, 1, 100, 100, 10, 10]
    assert options(*where, "tfinal", tasks) == [50000, 1800, 8000, 1800, 25000, 22000, 3500, 2000]
    recipe = load_recipe(*where, "mrpc", GLUE)
    assert (recipe.options["init_r"], recipe.options["target_r"]) == (12, 8)
    assert recipe.training["warmup_ratio"] == 0.1 and "warmup_steps" not in recipe.training
    official = ("deberta-v3-base", "official", "adalora")
    assert options(*official, "init_r", tasks) == [3, 2, 2, 2, 2, 2, 3, 2]
    assert row(*official, "lr", tasks) == [5e-4, 1.2e-3, 5e-4, 1e-3, 8e-4, 8e-4, 8e-4, 2.2e-3]


@pytest.mark.parametrize("backbone", ["roberta-base", "roberta-large"])
@pytest.mark.parametrize("protocol", ["paper", "official"])
def test_lora_starts_three_tasks_from_mnli_and_vera_none(backbone, protocol):
    started = [task for task in TASK_ORDER if load_recipe(backbone, protocol, "lora", task, GLUE).mnli_init]
    assert started == ["mrpc", "rte", "stsb"]
    if protocol == "paper":
        assert not any(load_recipe(backbone, protocol, "vera", task, GLUE).mnli_init for task in VERA_ORDER)


# ---- choice and errors ------------------------------------------------------------------------------------------


def test_auto_takes_the_paper_where_there_is_one():
    assert load_recipe("FacebookAI/roberta-base", "auto", "lora", "rte", GLUE).protocol == "paper"
    assert load_recipe("roberta-base", "auto", "full", "rte", GLUE).protocol == "default"  # no paper gives one
    assert load_recipe("roberta-base", "auto", "vera", "mnli", GLUE).protocol == "default"
    assert load_recipe("embedded", "auto", "lora", "rte", GLUE).protocol == "embedded"
    assert load_recipe("bert-base-uncased", "auto", "lora", "rte", GLUE).protocol == "default"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bert-base-uncased", "paper", "lora", "rte"), ["'paper'", "'bert-base-uncased'", "paper for roberta-base"]),
        (("roberta-base", "papr", "lora", "rte"), ["'papr'"]),
        (("roberta-base", "paper", "full", "rte"), ["'full'", "lora, vera", "--preset default"]),
        (("roberta-base", "paper", "vera", "mnli"), ["'mnli'", "sst2"]),
        (("roberta-base", "nowhere/mine.yaml", "lora", "rte"), ["nowhere/mine.yaml"]),
    ],
)
def test_what_is_missing_is_one_line(arguments, words):
    with pytest.raises(NoRecipe) as caught:
        load_recipe(*arguments, GLUE)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words)


def test_the_recipes_of_a_row_are_of_one_protocol():
    """VeRA's paper leaves MNLI and QQP out: its row has no MNLI by our default settings among the paper's figures."""
    recipes = recipes_for("roberta-base", "auto", "vera", GLUE)
    assert set(recipes) == set(VERA_ORDER) and {recipe.protocol for recipe in recipes.values()} == {"paper"}
    assert recipes_for("roberta-base", "auto", "vera", GLUE, ["mnli"])["mnli"].protocol == "default"
    assert list(recipes_for("any", "auto", "lora", GLUE)) == list(TASKS)
    with pytest.raises(NoRecipe, match="only for lora, vera, fourierft, vblora; use --preset default"):
        recipes_for("roberta-base", "paper", "full", GLUE)


def test_a_recipe_names_the_one_that_its_run_starts_from():
    def starts(**choice):
        found = recipes_for("roberta-base", "paper", "lora", GLUE, **choice)
        return {task: recipe.start.task for task, recipe in found.items() if recipe.start}

    three = {"mrpc": "mnli", "rte": "mnli", "stsb": "mnli"}
    assert starts() == starts(mnli_init=True) == three and starts(mnli_init=False) == {}
    assert starts(tasks=["rte", "cola"]) == {"rte": "mnli"}
    wanted = recipes_for("embedded", "embedded", "lora", GLUE, mnli_init=True)
    assert [task for task, recipe in wanted.items() if recipe.start] == list(three)


GOOD = {
    "backbone": "mine",
    "protocol": "tuned",
    "source": "me",
    "common": {"lr": 1e-3, "warmup_ratio": 0.1},
    "variants": {
        "lora": {
            "options": {"r": 4, "alpha": 4},
            "common": {"lr": 2e-3, "epochs": 3},
            "tasks": {"rte": {"epochs": 5, "warmup_steps": 10, "options": {"r": 2}}, "cola": {}},
        }
    },
}


def written(folder, content):
    path = folder / "tuned.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_the_nearest_value_wins(tmp_path):
    path = written(tmp_path, GOOD)
    rte, cola = (load_recipe("any/model", path, "lora", task, GLUE) for task in ("rte", "cola"))
    assert rte.training == {"lr": 2e-3, "epochs": 5, "warmup_steps": 10} and rte.options == {"r": 2, "alpha": 4}
    assert cola.training == {"lr": 2e-3, "epochs": 3, "warmup_ratio": 0.1} and cola.options == {"r": 4, "alpha": 4}
    assert rte.protocol == "tuned" and rte.seeds == (0,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["common"].update(learning_rate=1), ["learning_rate", "did you mean"]),
        (lambda c: c["variants"]["lora"]["tasks"].update(mnil={}), ["'mnil'", "mnli"]),
        (lambda c: c["variants"]["lora"].update(option={}), ["'option'", "options"]),
        (lambda c: c.pop("source"), ["'source' is missing"]),
        (lambda c: c["common"].update(lr="5e-4"), ["lr must be a positive number", "5.0e-4"]),
        (lambda c: c["variants"]["lora"]["common"].update(lr=-1.0), ["lora: common", "lr must be"]),
        (lambda c: c["variants"]["lora"]["tasks"]["cola"].update(lr=0), ["lora: cola", "lr must be"]),
        (lambda c: c["common"].update(batch_size=1.5), ["batch_size", "whole"]),
        (lambda c: c["common"].update(epochs=0), ["epochs", "positive"]),
        (lambda c: c["common"].update(weight_decay=-1), ["weight_decay", "non-negative"]),
        (lambda c: c["variants"]["lora"].update(mnli_init=["mnli"]), ["mnli_init", "'mnli'"]),
        (lambda c: c["variants"].update(vera=3), ["vera", "3"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, change, words):
    content = yaml.safe_load(yaml.safe_dump(GOOD))
    change(content)
    with pytest.raises(UserError) as caught:
        load_recipe("mine", written(tmp_path, content), "lora", "rte", GLUE)
    message = str(caught.value)
    assert "tuned.yaml" in message and "\n" not in message and all(word in message for word in words)


def test_a_file_that_is_not_yaml_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is not YAML") as caught:
        load_recipe("mine", written(tmp_path, "a: [1"), "lora", "rte", GLUE)
    assert "\n" not in str(caught.value)
