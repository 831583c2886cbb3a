"""E2E's runs at a chosen setting, which were trained as its trials: scored alone, they equal runs trained anew."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import sys
import weakref
from pathlib import Path

import pytest
import yaml

from modules.benchmarks.e2e.objective import Generation
from modules.comparison import comparison as comparisons
from modules.comparison.shared import tell_trained
from modules.launch import worker
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore, RunResult
from modules.training import run as training
from modules.training.record import agree
from paper_repro import compare
from tests.support.e2e_tiny import csv_folder, tiny_gpt2
from tests.support.runs import adapter
from variants.formats.native import read_adapter

RATES = [1e-6, 0.02]
LORA, PISSA = {"variant": "lora", "options": {"r": 1}}, {"variant": "pissa", "options": {"r": 2}}
ALONE, SEEDS, STACKED = [], ["--stack_seeds"], ["--stack_rates", "4"]
LOGGED = [*STACKED, "--logger", "csv"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("e2e")
    return tiny_gpt2(root / "tiny-gpt2"), csv_folder(root / "data")


class Command:
    """compare.py on one row of E2E, whose workers are this process.

    Attributes:
        fits: how often something was trained, so far.
        results: the folder of the comparison.
    """

    def __init__(self, folders: tuple[Path, Path], root: Path, row: dict, flags: list[str], **trainer) -> None:
        self.fits, self.results, self.path = 0, root / "results", root / "plan.yaml"
        common = {"batch_size": 16, "max_length": 80, "max_new_tokens": 6, "beams": 2, "no_repeat_ngram": 4}
        tune = {"seeds": [0, 1], "tasks": ["e2e"], "metric": "loss", "common": {"score_epoch": "none", "beams": 1}}
        plan = {
            "benchmark": "e2e",
            "seeds": [0, 1],
            "trainer": {"accelerator": "cpu"} | trainer,
            "common": common,
            "tasks": {"e2e": {"epochs": 2}},
            "tune": tune,
            "variants": {"row": {"lr": RATES} | row},
        }
        self.path.write_text(yaml.safe_dump(plan))
        self.words = [str(self.path), "--model", str(folders[0]), "--data_dir", str(folders[1])]
        self.words += ["--results_dir", str(self.results), "--jobs", "1", "--wandb", "off", "--logger", "none", *flags]

    def __call__(self, *flags: str) -> int:
        return compare.main([*self.words, *flags])

    def without_runs(self) -> None:
        """Take the comparison's own runs away; its trials stay."""
        shutil.rmtree(self.results / "runs")

    def runs(self) -> list[tuple[RunResult, RunConfig]]:
        """The comparison's own, by seed, with their configurations."""
        found = sorted(ResultStore(self.results).all(), key=lambda run: run.seed)
        return [(run, RunConfig.read(str(self.results), run.id)) for run in found]


@pytest.fixture
def make(folders, tmp_path, monkeypatch):
    """``make(row, flags)``: a `Command`."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no Java: METEOR takes seconds
    monkeypatch.setattr(
        "modules.launch.jobs.launch.run_workers", lambda words, folder, *_: worker.main([folder, *words])
    )

    monkeypatch.setattr(compare, "show_table", lambda *_, **__: 0)  # its plots take longer than the runs

    def made(row: dict, flags: list[str], **trainer) -> Command:
        command, fit = Command(folders, tmp_path, row, flags, **trainer), training.fit

        def counted(*arguments):
            command.fits += 1
            fit(*arguments)

        monkeypatch.setattr(training, "fit", counted)
        return command

    return made


def compare_with_trained_anew(command: Command, monkeypatch) -> None:
    """The runs as they are now equal those of the same command without their trials' adapters."""
    ours = command.runs()
    outputs = [(config.folder / "test.txt").read_text() for _, config in ours]
    tensors = [{which: adapter(config, which) for which in ("best", "last")} for _, config in ours]
    command.without_runs()
    before = command.fits
    with monkeypatch.context() as patch:
        patch.setattr(comparisons, "tell_trained", lambda runs, _: None)
        assert command() == 0 and command.fits > before
    for (one, _), (two, config), text, own in zip(ours, command.runs(), outputs, tensors, strict=True):
        assert one.id == two.id and one.training == two.training and "trained_as" not in two.cost
        assert text == (config.folder / "test.txt").read_text()
        assert {**one.test, "decode_s": 0} == {**two.test, "decode_s": 0}
        for a, b in zip(one.epochs, two.epochs, strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
        assert one.parameters == two.parameters and one.cost["steps"] == two.cost["steps"]
        for which, values in own.items():
            for name, tensor in adapter(config, which).items():
                assert values[name].allclose(tensor, rtol=1e-3, atol=1e-5), (which, name)


@pytest.mark.parametrize(
    ("row", "flags", "fits"),
    [(LORA, ALONE, 4), (LORA, SEEDS, 2), (LORA, LOGGED, 1), (PISSA, STACKED, 1), ({"variant": "bitfit"}, ALONE, 4)],
    ids=["alone", "seeds", "rates", "pissa-rates", "bitfit"],
)
def test_what_a_trial_has_learnt_is_scored_alone_and_equals_a_run_trained_anew(make, monkeypatch, row, flags, fits):
    command = make(row, flags)
    assert command() == 0 and command.fits == fits, "the search's alone"
    trials = ResultStore(command.results / "tuning")
    for result, config in command.runs():
        trial = trials.read(Path(result.cost["trained_as"]).name)
        assert result.cost == trial.cost | {"trained_as": config.trained_as}
        assert config.trained_as == f"tuning/runs/{trial.id}" and result.id != trial.id
        assert result.training | {"beams": 1, "score_epoch": "none"} == trial.training
        names = ("seed", "variant_config", "epochs", "best", "last", "parameters", "environment")
        assert all(getattr(result, name) == getattr(trial, name) for name in names)
        assert trial.test is None and result.test["epoch"] == result.best["epoch"]
        notes = read_adapter(config.folder / "best")[0]
        assert (notes["run"], notes["inputs"]["beams"], notes["epoch"]) == (result.id, 2, result.best["epoch"])
        if flags is LOGGED:
            with open(config.folder / "csv" / "metrics.csv", newline="") as file:
                losses = [float(line["dev/loss"]) for line in csv.DictReader(file) if line.get("dev/loss")]
            assert losses == pytest.approx([figures["loss"] for figures in result.epochs])
    assert command() == 0 and command.fits == fits, "what is done is not done again"
    compare_with_trained_anew(command, monkeypatch)


def test_on_a_backbone_in_bf16_too(make, monkeypatch):
    """Where another number of runs in a stack rounds otherwise."""
    found = []
    monkeypatch.setattr(training, "agree", lambda *known: found.append(known) or agree(*known))
    command = make(LORA, STACKED, precision="bf16-mixed")
    assert command() == 0 and command.fits == 1 and len(command.runs()) == 2
    ((losses, records),) = found
    assert losses == pytest.approx([record.best["loss"] for record in records], rel=2**-9)
    off = [[losses[0] * (1 + part), losses[1]] for part in (0.005, 0.02)]
    assert [agree(each, records) for each in off] == [True, False]
    for record in records:
        record.training["precision"] = "32-true"
    assert not agree(off[0], records)


@pytest.mark.parametrize("which", ["best", "last"])
def test_without_the_adapters_it_is_trained(make, which):
    command = make(LORA, STACKED)
    assert command() == 0 and command.fits == 1
    (first, _), _ = command.runs()
    shutil.rmtree(command.results / first.cost["trained_as"] / which)
    command.without_runs()
    assert command() == 0 and command.fits == 2
    trained = ["trained_as" not in result.cost for result, _ in command.runs()]
    assert trained == [True, False], "the other seed is scored alone still"


def test_adapters_that_go_away_before_the_worker_comes_are_trained_anew(make, monkeypatch):
    command = make(LORA, ALONE)
    assert command() == 0 and command.fits == 4
    command.without_runs()
    monkeypatch.setattr("modules.comparison.shared._kept", lambda folder: True)
    for file in (command.results / "tuning").glob("runs/*/best/adapter.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    assert command() == 0 and command.fits == 6
    assert all("trained_as" not in result.cost and result.test for result, _ in command.runs())


def attached_one_by_one(monkeypatch) -> list[weakref.ref]:
    """The models that adapters are attached to from now on, none of which is in memory when the next one is."""
    models, attach_adapters = [], training.attach_adapters

    def attached(configs):
        assert all(model() is None for model in models)
        found = attach_adapters(configs)
        models.append(weakref.ref(found[0].model))
        return found

    monkeypatch.setattr(training, "attach_adapters", attached)
    return models


@pytest.mark.parametrize("lost", [0, 1])
def test_only_the_run_whose_adapter_is_lost_trains(make, monkeypatch, capsys, lost):
    """Of runs that are scored together, and after the others have been: it is the one that takes long."""
    command = make(LORA, STACKED)
    assert command() == 0 and command.fits == 1
    results, configs = zip(*command.runs(), strict=True)
    file = command.results / results[lost].cost["trained_as"] / "best" / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    command.without_runs()
    capsys.readouterr()
    models = attached_one_by_one(monkeypatch)
    found = training.run_seeds(configs)
    assert command.fits == 2 and len(models) == 2
    assert [run.id for run in found] == [run.id for run in results], "in the order of the configurations"
    assert [run.seed for run in found if "trained_as" not in run.cost] == [lost]
    scored = [line for line in capsys.readouterr().out.splitlines() if "trained before, scoring" in line]
    assert len(scored) == 1 and f"seed {1 - lost}: " in scored[0]
    assert [run.test["BLEU"] for run in found] == [run.test["BLEU"] for run in results]
    stored = sorted(ResultStore(command.results).all(), key=lambda run: run.seed)
    assert [run.id for run in stored] == [run.id for run in found] and not list(command.results.rglob("*.ckpt"))


def test_adapters_of_another_run_are_found_out(make, monkeypatch, capsys):
    """Their dev loss is not that of the record. What they were tried on is gone before the run trains: of a large model
    there is no room for two."""
    command = make(LORA, SEEDS)
    assert command() == 0
    (result, _), (other, _) = command.runs()
    trials = ResultStore(command.results / "tuning").all()
    low = next(run for run in trials if run.training["lr"] == RATES[0] and run.seed == 0)
    for which in ("best", "last"):  # of the record's epoch, with other values
        target = command.results / result.cost["trained_as"] / which
        epoch = getattr(result, which)["epoch"]
        shutil.rmtree(target)
        shutil.copytree(command.results / "tuning" / "runs" / low.id / which, target)
        text = (target / "adapter.json").read_text()
        (target / "adapter.json").write_text(
            text.replace(f'"epoch": {getattr(low, which)["epoch"]}', f'"epoch": {epoch}')
        )
    command.without_runs()
    before, _, models = command.fits, capsys.readouterr(), attached_one_by_one(monkeypatch)
    assert command() == 0 and command.fits == before + 1 and len(models) == 2
    assert "do not have its dev loss here: training anew" in capsys.readouterr().out
    assert [run.test["BLEU"] for run, _ in command.runs()] == [result.test["BLEU"], other.test["BLEU"]]
    assert all("trained_as" not in run.cost for run, _ in command.runs())


def test_a_run_that_is_stopped_while_it_is_scored_goes_on(make, monkeypatch):
    command = make(LORA, STACKED)
    with monkeypatch.context() as patch:
        patch.setattr(Generation, "_scored", lambda *_: 1 / 0)
        assert command() != 0 and command.fits == 1 and not command.runs()
    assert command() == 0 and command.fits == 1 and len(command.runs()) == 2


def test_the_plan_counts_no_steps_of_what_is_scored_alone(make, capsys):
    command = make(LORA, STACKED)
    for trained in (False, True):  # a trial that is missing yet is trained before its run too
        assert command("--plan") == 0
        *_, line, total = capsys.readouterr().out.strip().splitlines()
        assert line.endswith("seed 0,1: trained as a trial, to be scored")
        assert total == "  2 runs are missing, 0 steps if what is stacked counts once"
        if not trained:
            assert command() == 0
            command.without_runs()
            capsys.readouterr()


def test_nothing_but_what_is_scored_after_training_may_differ(make):
    command = make(LORA, ALONE)
    assert command() == 0
    (result, run), _ = command.runs()
    trial = RunConfig.read(str(command.results / "tuning"), Path(result.cost["trained_as"]).name)

    def matches(**changes) -> bool:
        training_settings = run.training | changes.pop("training", {})
        other = dataclasses.replace(run, training=training_settings, **changes)
        tell_trained([other], [trial])
        return other.trained_as is not None

    free = {"score_epoch": "last", "beams": 7, "length_penalty": 0.5, "decode_batch_size": 3}
    assert matches() and matches(training=free)
    for name, value in {"lr": 0.03, "epochs": 3, "max_new_tokens": 7, "no_repeat_ngram": 0, "max_length": 70}.items():
        assert not matches(training={name: value}), name
    assert not matches(seed=2) and not matches(options=run.options | {"r": 2})
    assert not matches(trainer=run.trainer | {"accumulate_grad_batches": 2})
