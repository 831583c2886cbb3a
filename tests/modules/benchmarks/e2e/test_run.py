"""E2E from the command to the result file: what is trained, decoded, scored, kept, resumed and split over processes."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modules.benchmarks.e2e import E2E
from modules.benchmarks.e2e.sources import FolderSource
from modules.command_line import guarded
from modules.experiments.command import main
from modules.experiments.plan import make_plan
from modules.experiments.wishes import Wishes, seeds_of
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore, RunResult
from modules.scores import score
from tests.support.e2e_tiny import TEST, csv_folder, text_folder, tiny_gpt2
from tests.support.runs import ENVIRONMENT, carry_out, in_two, parser, start_and_kill
from variants.registry import resolve

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = str(ROOT / "paper_repro" / "e2e.py")
METRICS = ("BLEU", "NIST", "NIST_python", "METEOR", "ROUGE_L", "CIDEr")


@pytest.fixture(scope="session")
def e2e_folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("e2e")
    return tiny_gpt2(root / "tiny-gpt2"), text_folder(root / "text")


@pytest.fixture
def command(e2e_folders, tmp_path) -> list[str]:
    """The flags of a small run: no METEOR, whose Java takes seconds to start."""
    return [
        *("--model", str(e2e_folders[0]), "--data_dir", str(e2e_folders[1])),
        *("--results_dir", str(tmp_path / "results"), "--wandb", "off", "--seeds", "0"),
        *("--batch_size", "8", "--epochs", "2", "--lr", "0.01", "--warmup_steps", "2"),
        *("--max_length", "80", "--max_new_tokens", "16", "--beams", "3", "--decode_batch_size", "1"),
        *("--trainer.accelerator", "cpu"),
    ]


@pytest.fixture(autouse=True)
def no_java(monkeypatch, tmp_path_factory):
    """A PATH without Java, but with all else that is needed: METEOR is then left out, as on any such machine."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setitem(ENVIRONMENT, "PATH", str(Path(sys.executable).parent))


def planned(command: list[str], variant: str = "lora", **changes) -> RunConfig:
    """The one run that the command line would do."""
    flags = parser(resolve(variant), E2E).parse_args(command)
    wishes = Wishes(
        variant=variant,
        model=flags.model,
        data_dir=flags.data_dir,
        seeds=seeds_of(flags.seeds),
        training={name: flags[name] for name in E2E.settings.flags() if flags[name] is not None},
        trainer=flags.trainer or {},
        results_dir=flags.results_dir,
        wandb=flags.wandb,
        benchmark=E2E,
    )
    (run,) = make_plan(dataclasses.replace(wishes, **changes), resolve(variant)).runs
    run.write()
    return run


def result_of(run: RunConfig) -> RunResult:
    return ResultStore(run.results_dir).read(run.id)


def outputs_of(run: RunConfig) -> list[str]:
    return (run.folder / "test.txt").read_text().splitlines()


def adapter(run: RunConfig, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.folder / which / "adapter.safetensors")


def scores(result: RunResult) -> dict:
    return {name: result.test[name] for name in METRICS}


# ---- seeds that are stacked ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        *("lora", "dora", "adalora", "vera", "bitfit", "adapter_h", "adapter_l"),
        *("prefix_embed", "prefix_layer", "prefix_tuning"),
    ],
)
def test_stacked_seeds_train_decode_and_score_as_their_runs_alone(command, tmp_path, variant):
    """Batches of unequally many targets; the epoch that is decoded is not the last one of every seed.

    The first of a stack is compared for one method: what goes wrong with places shows in the second.
    """
    from modules.training.run import run as train
    from modules.training.run import run_seeds

    options = {"adalora": {"init_r": 3, "target_r": 2}, "vera": {"r": 8}}.get(variant, {})
    options |= {"dropout": 0.0} if variant in ("lora", "dora") else {}

    def both(folder: str) -> list[RunConfig]:
        flags = [*command, "--epochs", "3", "--results_dir", str(tmp_path / folder)]
        return [planned(flags, variant, seeds=[seed], options=options) for seed in (0, 1)]

    stacked, alone = both("stacked"), both("alone")
    run_seeds(stacked)
    for ours, theirs in list(zip(stacked, alone, strict=True))[variant != "lora" :]:
        train(theirs)
        one, two = result_of(ours), result_of(theirs)
        assert one.id == two.id and one.cost["stacked"] == 2
        for a, b in zip(one.epochs, two.epochs, strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
        assert outputs_of(ours) == outputs_of(theirs) and scores(one) == pytest.approx(scores(two))
        assert one.test["epoch"] == two.test["epoch"] == two.best["epoch"]
        assert one.parameters == two.parameters and not (ours.folder / "decoding").exists()


# ---- one run ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_leaves_outputs_scores_and_what_settles_a_comparison(command, e2e_folders):
    from modules.backbones.loading import load_language_model
    from modules.benchmarks.causal.decode import Decoding, decode
    from modules.training.run import run as train
    from variants import load

    run = planned(command)
    result = train(run)
    outputs = outputs_of(run)
    groups = (run.folder / "test_references.txt").read_text().rstrip("\n").split("\n\n")
    references = [group.split("\n") for group in groups]
    rows = [line.split("||") for line in (e2e_folders[1] / "test.txt").read_text().splitlines()]
    assert [text for group in references for text in group] == [text.strip() for _, text in rows]
    mrs = list(dict.fromkeys(mr for mr, _ in rows))
    assert len(outputs) == len(mrs) == len(references) == 4
    values, missing = score(outputs, references)
    assert scores(result) == values and values["METEOR"] is None and "Java" in missing["METEOR"]
    assert result.data["sizes"] == {
        "train": 45, "validation": 10, "test": TEST, "validation_inputs": 2, "test_inputs": 4,
    }  # fmt: skip
    assert result.metric == "BLEU" and result.test["epoch"] == result.best["epoch"]
    assert result.parameters == {"adapter": 2 * 2 * 4 * 32, "head": 0, "total": result.parameters["total"]}
    assert result.cost["step_ms"] > 0 and not (run.folder / "decoding").exists()
    assert not (run.folder / "last.ckpt").exists()

    # the kept adapter on a fresh model says the same
    model, tokenizer, _ = load_language_model(run.backbone["spec"], E2E.embedded())
    load(model, run.folder / "best", strict=True)
    contexts = [ids + [tokenizer.eos_token_id] for ids in tokenizer(mrs)["input_ids"]]
    assert decode(model, contexts, tokenizer, Decoding.of(E2E.settings.of(run.training), tokenizer)) == outputs


@pytest.mark.slow
def test_the_last_epoch_is_scored_where_the_recipe_says_so(command, tmp_path):
    from modules.training.run import run as train

    best = train(planned([*command, "--lr", "0.3", "--epochs", "3"]))
    last = planned([*command, "--lr", "0.3", "--epochs", "3", "--score_epoch", "last"])
    assert train(last).test["epoch"] == 3 and best.test["epoch"] == best.best["epoch"] and last.id != best.id


def test_the_frozen_model_is_scored_as_it_is(command):
    from modules.backbones.loading import load_language_model
    from modules.benchmarks.causal.decode import Decoding, decode
    from modules.benchmarks.e2e.data import inputs_of
    from modules.training.run import run as train

    run = planned(command, "head")
    result = train(run)
    assert result.parameters["adapter"] == result.parameters["head"] == result.cost["steps"] == 0
    assert [figures["epoch"] for figures in result.epochs] == [0] and result.test["epoch"] == 0
    model, tokenizer, _ = load_language_model(run.backbone["spec"], E2E.embedded())
    rows = FolderSource(run.data["spec"]).load(E2E.tasks["e2e"])["test"]
    contexts = inputs_of(rows, tokenizer, "authors").ids
    assert decode(model, contexts, tokenizer, Decoding.of(E2E.settings.of(run.training), tokenizer)) == outputs_of(run)


def test_both_forms_of_the_data_are_one_run(command, tmp_path):
    same = planned([*command, "--data_dir", str(csv_folder(tmp_path / "csv"))])
    assert same.id == planned(command).id
    assert planned([*command, "--linearisation", "words"]).id != same.id


# ---- killed and resumed -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_in_training_and_again_in_decoding_it_gives_the_very_same(command, tmp_path):
    flags = [*command, "--epochs", "4", "--max_new_tokens", "24"]
    whole = planned(flags)
    carry_out(whole)
    broken = planned([*flags, "--results_dir", str(tmp_path / "broken")])
    start_and_kill(broken, (broken.folder / "last.ckpt").exists)
    assert not (broken.folder / "decoding").exists()
    start_and_kill(broken, lambda: any(broken.folder.glob("decoding/*/*.json")))
    kept = {file: file.stat().st_mtime_ns for file in broken.folder.glob("decoding/*/*.json")}
    assert 1 <= len(kept) < 4
    carry_out(broken)
    results = [result_of(run) for run in (whole, broken)]
    assert results[0].epochs == results[1].epochs and scores(results[0]) == scores(results[1])
    assert outputs_of(whole) == outputs_of(broken)
    for which in ("best", "last"):
        a, b = adapter(whole, which), adapter(broken, which)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- several processes --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_the_outputs_and_weights_of_one(command, tmp_path):
    command, options = [*command, "--batch_size", "7"], {"dropout": 0.0}  # each process has dropout masks of its own
    one = planned(command, options=options)
    flags = [*command, "--results_dir", str(tmp_path / "two")]
    two = planned([*flags, "--trainer.devices", "2", "--trainer.strategy", "ddp"], options=options)
    assert one.id == two.id
    carry_out(one)
    in_two(two)
    results = [result_of(run) for run in (one, two)]
    assert [r.environment["devices"] for r in results] == [1, 2]
    for a, b in zip(results[0].epochs, results[1].epochs, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    first, second = adapter(one), adapter(two)
    assert all(torch.allclose(first[key], second[key], atol=1e-5) for key in first)
    assert outputs_of(one) == outputs_of(two) and scores(results[0]) == scores(results[1])


# ---- the command --------------------------------------------------------------------------------------------------

MISTAKES = {
    "unknown setting": (["--beam", "3"], "unknown option --beam; did you mean --beams"),
    "another benchmark's": (["--mnli_init", "true"], "unknown option --mnli_init"),
    "unknown form": (["--linearisation", "json"], "linearisation must be one of authors, challenge, words, got 'json'"),
    "no beams": (["--beams", "0"], "beams must be a positive whole number, got 0"),
    "unknown task": (["--tasks", "rte"], "unknown task 'rte'; the tasks are e2e"),
    "no recipe": (["--preset", "paper"], "no recipe 'paper' for the backbone 'tiny-gpt2'; there are: default for"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_and_exit_code_2(mistake, command, capsys, tmp_path):
    arguments, message = MISTAKES[mistake]
    assert main([*command, *arguments], E2E) == 2
    error = capsys.readouterr().err.strip()
    assert re.fullmatch("error: [^\n]*", error) and re.search(message, error), error


@pytest.mark.slow
def test_an_output_that_does_not_fit_the_positions_is_one_line(command, capfd, in_this_process):
    assert main([*command, "--max_new_tokens", "90"], E2E) == 2
    error = capfd.readouterr().err
    assert "error: e2e lora seed 0: a meaning representation of" in error and "lower --max_new_tokens" in error


def test_help_comes_without_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True, env=ENVIRONMENT
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "jsonargparse" in imported and not imported & {"torch", "lightning", "transformers", "numpy"}
    for text in ("usage: e2e.py", "--length_penalty", "--r R", "E2E_DIR", "examples:"):
        assert text in done.stdout


@pytest.mark.slow
def test_the_command_prints_the_published_rows_beside_ours(command, capfd, tmp_path, in_this_process):
    assert main(command, E2E) == 0
    out = capfd.readouterr().out
    assert "(folder)" in out.splitlines()[0] and "e2e lora seed 0: epoch 2/2, BLEU" in out
    assert "METEOR is left out: METEOR needs a Java runtime" in out and "of other backbones (gpt2-medium" in out
    table = (tmp_path / "results" / "tables" / "e2e.md").read_text()
    assert "tiny-gpt2 (not gpt2-medium) on text" in table and "70.4 ±0.1" in table and "68.9" in table
    assert main(command, E2E) == 0 and "1 done before" in capfd.readouterr().out


# ---- decoded again ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_finished_run_is_decoded_again_without_training(command, tmp_path, monkeypatch, capsys):
    """The run's own settings give its own outputs; others give what a run trained with them gives."""
    from modules.training.run import run as train
    from paper_repro import e2e_decode

    first, short = planned(command), planned([*command, "--max_new_tokens", "5", "--beams", "1"])
    result, wanted = train(first), train(short)
    out = tmp_path / "outputs.txt"

    def decode(run: RunConfig, *flags: str) -> int:
        monkeypatch.setattr(sys, "argv", ["e2e_decode.py", str(run.folder), *flags])
        return guarded(e2e_decode.main)

    capsys.readouterr()
    assert decode(first, "--out", str(out), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert out.read_text().splitlines() == outputs_of(first) and {name: said[name] for name in METRICS} == scores(
        result
    )
    assert decode(first, "--max_new_tokens", "5", "--beams", "1", "--out", str(out)) == 0
    assert f"BLEU: {wanted.test['BLEU']:.4f}" in capsys.readouterr().out
    assert out.read_text().splitlines() == outputs_of(short) != outputs_of(first)
    assert result_of(first) == result
    for flags, says in (
        (["--beams", "0"], "beams"),
        (["--data_dir", str(tmp_path)], "has neither"),
        (["--model", "embedded"], "not those that the run started from"),
    ):
        assert decode(first, *flags) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error
    monkeypatch.setattr(sys, "argv", ["e2e_decode.py", str(tmp_path)])
    assert guarded(e2e_decode.main) == 2 and "no config.json" in capsys.readouterr().err
