"""A person's own instructions from the command to what is left: trained, scored, killed, resumed, taken along."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modules.benchmarks.instruct import INSTRUCT
from modules.embedded import LLAMA
from modules.inference.load import load_run
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore, RunResult
from tests.support.runs import adapter, carry_out, in_two, planned, start_and_kill
from variants import convert, merge

ROOT = Path(__file__).resolve().parents[4]
COLOURS = ("red", "blue", "green", "black", "white", "pink", "gold", "grey", "brown")
ROWS = [{"instruction": f"{ask} {word}", "output": word} for ask in ("Repeat", "Say") for word in COLOURS]
TEST = [{"messages": [{"role": "user", "content": f"Tell {w}"}, {"role": "assistant", "content": w}]} for w in COLOURS]
"""Of another form than the training rows, and no multiple of a batch, nor of two processes."""


def lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Callable[..., RunConfig]:
    """The run that the command line would do, with more words, in a results folder of its own."""
    folder = tmp_path_factory.mktemp("instruct")
    train, test = lines(folder / "my.jsonl", ROWS), lines(folder / "test.jsonl", TEST)
    words = [
        *("--data", train, "--test", test, "--model", "embedded", "--seeds", "0", "--r", "4", "--lr", "0.02"),
        *("--epochs", "3", "--batch_size", "5", "--max_length", "64", "--scores", "exact,rouge_l"),
        *("--max_new_tokens", "8", "--decode_batch_size", "4", "--wandb", "off", "--trainer.accelerator", "cpu"),
    ]

    def one(name: str, *more: str) -> RunConfig:
        (run,) = planned([*words, "--results_dir", str(folder / name), *more], benchmark=INSTRUCT)
        return run

    return one


@pytest.fixture(scope="module")
def whole(plan) -> RunConfig:
    """The run, carried out without a break."""
    run = plan("whole")
    carry_out(run)
    return run


def result_of(run: RunConfig) -> RunResult:
    return ResultStore(run.results_dir).read(run.id)


def answers_of(run: RunConfig) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "answers.jsonl").read_text().splitlines()]


def figures_of(run: RunConfig) -> dict:
    """All figures of the test set but how long it took."""
    return {name: value for name, value in result_of(run).test.items() if name != "decode_s"}


def test_own_rows_are_learnt_and_scored(whole) -> None:
    result, answers = result_of(whole), answers_of(whole)
    first, *_, last = [epoch["neg_perplexity"] for epoch in result.epochs]
    assert last > first, "the dev set's responses become likelier"
    assert [row["instruction"] for row in answers] == [row["messages"][0]["content"] for row in TEST]
    right = sum(row["answer"] == row["response"] for row in answers) / len(TEST)
    assert result.test["exact"] == pytest.approx(right) and 0 <= right <= result.test["rouge_l"] <= 1


@pytest.mark.slow
def test_killed_in_training_it_gives_the_very_same(whole, plan) -> None:
    """Killed while it answers: tests/modules/benchmarks/e2e/test_run.py, by the same `decode_each`."""
    broken = plan("broken")
    start_and_kill(broken, (broken.folder / "last.ckpt").exists)
    assert not (broken.folder / "answers.jsonl").exists(), "it was killed while it trained"
    carry_out(broken)
    assert result_of(broken).epochs == result_of(whole).epochs and figures_of(broken) == figures_of(whole)
    assert answers_of(broken) == answers_of(whole)
    for which in ("best", "last"):
        ours, theirs = adapter(whole, which), adapter(broken, which)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(plan) -> None:
    few = "--epochs", "1", "--lr", "0.002"  # Adam's first steps magnify the last bits of small gradients
    one, two = plan("one", *few), plan("two", *few, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert two.id == one.id
    carry_out(one)
    in_two(two)
    assert result_of(one).epochs[0] == pytest.approx(result_of(two).epochs[0], rel=1e-4)
    ours, theirs = adapter(one), adapter(two)
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) for key in ours)
    assert answers_of(two) == answers_of(one) and figures_of(two) == pytest.approx(figures_of(one))


@pytest.mark.slow
def test_peft_loads_what_was_trained_with_equal_logits(whole, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_run(whole.folder)
    assert convert.main([str(whole.folder / "best"), str(tmp_path / "peft"), "--to", "peft"]) == 0
    base = AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32).eval()
    ids = tokenizer("Repeat red", return_tensors="pt").input_ids
    with torch.no_grad():
        ours, frozen = model(ids).logits, base(ids).logits
        theirs = PeftModel.from_pretrained(base, tmp_path / "peft").eval()(ids).logits
    assert (ours - frozen).abs().max() > 0.1, "there is something to carry over"
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_a_merged_folder_answers_in_transformers_as_the_run_did(whole, tmp_path) -> None:
    from transformers import pipeline

    assert merge.main([str(whole.folder / "best"), "--out", str(tmp_path / "merged")]) == 0
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == load_file(LLAMA / "model.safetensors").keys()
    say = pipeline("text-generation", str(tmp_path / "merged"), device="cpu", dtype=torch.float32)
    for row in answers_of(whole)[:3]:
        turns = [{"role": "user", "content": row["instruction"]}]
        (said,) = say(turns, max_new_tokens=8, do_sample=False, return_full_text=False)
        assert said["generated_text"].strip() == row["answer"]


def test_the_guides_lines_load_it_and_generate(whole, monkeypatch, capsys) -> None:
    monkeypatch.chdir(Path(whole.results_dir).parent)
    (lines,) = re.findall(r"```python\n([^`]*text-generation[^`]*)```", (ROOT / "docs" / "instruct.md").read_text())
    assert len(lines.strip().splitlines()) <= 6
    row = min(answers_of(whole), key=lambda row: len(row["answer"]))  # one that ended by itself
    exec(lines.replace("results/runs/ID", str(whole.folder)).replace("What is 47 + 35?", row["instruction"]), {})
    assert capsys.readouterr().out.strip().splitlines()[-1] == row["answer"]


@pytest.mark.slow
def test_packed_rows_that_are_computed_again_and_the_reference_are_one_result(plan) -> None:
    """With new tokens, the loss on every token, and answers by beams; fp32, no dropout."""
    more = "--train_embeddings", "<a>,red", "--loss_on", "all", "--beams", "2", "--epochs", "1", "--lr", "0.002"
    fast, plain = plan("fast", *more, "--gradient_checkpointing", "on"), plan("plain", *more, "--reference")
    carry_out(fast)
    carry_out(plain)
    assert result_of(fast).epochs[0] == pytest.approx(result_of(plain).epochs[0], rel=1e-4)
    assert answers_of(fast) == answers_of(plain)
