"""Wishes: flags are read by the names of the fields, and reach the runs' configurations."""

from __future__ import annotations

import dataclasses
import shlex

import pytest

from modules.benchmarks.e2e import E2E
from modules.benchmarks.glue import GLUE
from modules.experiments.flags import make_parser
from modules.experiments.plan import make_plan
from modules.experiments.published_runs import planned_runs
from modules.experiments.wishes import Wishes, seeds_of
from modules.runs.config import Execution
from variants.errors import UserError
from variants.registry import resolve


def wished(line: str, benchmark=GLUE, variant: str = "lora") -> Wishes:
    cls = resolve(variant)
    return Wishes.of(make_parser(cls, benchmark).parse_args(shlex.split(line)), benchmark, cls)


def test_without_flags_the_choice_is_the_presets():
    assert wished("") == Wishes(benchmark=GLUE)
    assert Wishes(benchmark=GLUE).wandb == "auto"


def test_each_field_is_read_from_the_flag_of_its_name():
    line = "--variant lora --r 4 --alpha 8 --preset embedded --model FOLDER --data_dir DATA --tasks RTE,sts-b"
    line += " --seeds 1,2 --lr 0.01 --cls_dropout 0.1 --mnli_init false --trainer.devices 2 --results_dir R --wandb off"
    assert wished(f"{line} --compile off --budget 3000 --reference") == Wishes(
        benchmark=GLUE,
        variant="lora",
        options={"r": 4, "alpha": 8.0},
        preset="embedded",
        model="FOLDER",
        data_dir="DATA",
        tasks=["rte", "stsb"],
        seeds=[1, 2],
        training={"lr": 0.01, "cls_dropout": 0.1},
        mnli_init=False,
        trainer={"devices": 2},
        results_dir="R",
        wandb="off",
        compile="off",
        budget="3000",
        reference=True,
    )
    assert wished("--beams 3", E2E).training == {"beams": 3}


def test_the_benchmark_is_not_guessed():
    with pytest.raises(TypeError):
        Wishes(variant="lora")


@pytest.mark.parametrize("flag", ["--reference", "--compile off", "--wandb off"])
def test_how_runs_are_carried_out_reaches_them_and_not_their_ids(flag):
    line = "--preset embedded --tasks rte --seeds 3"
    wishes = wished(f"{line} {flag}")
    (plain,), (run,) = (make_plan(each, resolve("lora")).runs for each in (wished(line), wishes))
    assert run.id == plain.id and run.execution() == wishes.execution() != plain.execution()
    assert dataclasses.asdict(run) == dataclasses.asdict(plain) | wishes.execution() | {"command": run.command}
    (planned,) = planned_runs(wishes)
    words = planned.command.split(" ", 2)[2]
    assert wished(words).execution() == wishes.execution(), "the command of the dry run says so too"
    assert set(wishes.execution()) == {f.name for f in dataclasses.fields(Execution)}


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0-2,7", [0, 1, 2, 7]), ("[0, 2]", [0, 2]), ("1,1,0-1", [1, 0]), (4, [4])]
)
def test_seeds_are_numbers_and_ranges(text, seeds):
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["4-0", "a", "0-100000", "1.5", "-1", "", " , ", "[]"])
def test_what_are_no_seeds_is_refused(text):
    with pytest.raises(UserError, match="--seeds"):
        seeds_of(text)


def test_hyphens_are_underscores():
    assert wished("--batch-size 4 --mnli-init false --trainer.limit-train-batches 2") == Wishes(
        benchmark=GLUE, training={"batch_size": 4}, mnli_init=False, trainer={"limit_train_batches": 2}
    )
