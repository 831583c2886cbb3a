"""Answers and choices of a tiny LLaMA against a forward pass of each row by itself."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modules.benchmarks.causal import decode
from modules.benchmarks.instruct.rows.chat import prompt_ids
from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.scores import scores_named, scoring
from modules.benchmarks.instruct.scores.scoring import Answers, by_part, option_sums, said, scored
from modules.pretraining.small_llama import letters
from tests.support.two_processes import in_two_processes
from variants import attach, resolve

NAMES = ["exact", "choice", "choice_norm"]
EXAMPLES = [
    Example((("user", "Is it?"),), "it is yes.", ("yes", "no"), "yes", "a"),
    Example((("user", "Which one of these three?"),), "three", ("one", "three", "two"), "three", "b"),
    Example((("user", "Or?"),), "no", ("no", "yes"), "no", "b"),
]


def tiny():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=104, pad_token_id=0, eos_token_id=4, **sizes)).eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


def answers(names, batch_size=2, beams=1):
    return Answers(tuple(scores_named(names)), letters(), 5, batch_size, 64, beams)


@torch.no_grad()
def test_an_options_sum_is_that_of_a_pass_by_itself(model):
    tokenizer = letters()
    found = option_sums(model, EXAMPLES, answers(["choice"]), 1)[0]
    for example, sums in zip(EXAMPLES, found, strict=True):
        before = prompt_ids(example, tokenizer)
        for option, total in zip(example.options, sums, strict=True):
            response = tokenizer(said(example, option) + "<|end|>", add_special_tokens=False)["input_ids"]
            logs = model(torch.tensor([before + response])).logits[0].log_softmax(-1)
            expected = sum(logs[len(before) + k - 1, token].item() for k, token in enumerate(response))
            assert total == pytest.approx(expected, abs=1e-4)


def test_what_is_said_for_an_option_is_the_response_with_it():
    assert said(EXAMPLES[0], "no") == "it is no."
    assert said(Example((), "whatever", ("a", "b"), "a"), "b") == "b"


@pytest.mark.parametrize("beams", [1, 4])
def test_answers_are_generates_own_row_by_row(model, beams):
    tokenizer = letters()
    ((_, found),) = scored(model, EXAMPLES, answers(["exact"], beams=beams))
    search = {"num_beams": beams, "early_stopping": "never"} if beams > 1 else {}
    for example, answer in zip(EXAMPLES, found, strict=True):
        ids = torch.tensor([prompt_ids(example, tokenizer)])
        made = model.generate(ids, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(ids), **search)
        assert answer == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()


def on_a_rank(device, folder):
    return scored(tiny(), EXAMPLES, answers(NAMES, batch_size=1), keep=folder / "kept")


def test_two_processes_share_the_work_and_both_have_all_of_it(model, tmp_path):
    alone = scored(model, EXAMPLES, answers(NAMES, batch_size=1))
    assert in_two_processes(tmp_path, on_a_rank, tmp_path) == [alone, alone]
    assert len(list((tmp_path / "kept").iterdir())) == 3 + 7, "a batch of each answer, and of each option"


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_the_adapted_model_answers_and_not_the_one_beneath(model, variant):
    """Merged by hand into a copy, the adapter gives the same answers and probabilities."""
    adapted = attach(tiny(), resolve(variant)(r=4, target="all-linear"), seed=0, head=[])
    with torch.no_grad():
        for tensor in adapted.trained().values():
            tensor.normal_(std=0.5)
    ((figures, found),) = scored(adapted.model, EXAMPLES, answers(NAMES))
    sums = option_sums(adapted.model, EXAMPLES, answers(NAMES), 1)[0]
    assert found != scored(model, EXAMPLES, answers(NAMES))[0][1]
    merged = adapted.merge()
    whole = merged if isinstance(merged, torch.nn.Module) else adapted.model
    assert scored(whole, EXAMPLES, answers(NAMES)) == [(figures, found)]
    for own, other in zip(sums, option_sums(whole, EXAMPLES, answers(NAMES), 1)[0], strict=True):
        assert own == pytest.approx(other, abs=1e-3)


def test_figures_are_means_of_parts_and_their_mean():
    found = by_part("exact", [1.0, 0.0, 1.0], EXAMPLES)
    assert found == {"a_exact": 1.0, "b_exact": 0.5, "average_exact": 0.75}
    whole = [Example((), "x")] * 2
    assert by_part("exact", [1.0, 0.0], whole) == {"exact": 0.5}


def test_what_was_done_is_not_done_again(model, tmp_path, monkeypatch):
    whole = scored(model, EXAMPLES, answers(NAMES))
    calls = []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sums(*arguments)

    sums = scoring._sums
    monkeypatch.setattr(scoring, "_sums", killed)
    with pytest.raises(KeyboardInterrupt):
        scored(model, EXAMPLES, answers(NAMES), keep=tmp_path)
    (tmp_path / "options-1.json").write_text("[0.5,")  # half a file: that batch is done again
    monkeypatch.setattr(scoring, "_sums", lambda *arguments: calls.append(arguments) or sums(*arguments))
    monkeypatch.setattr(decode, "generate", lambda *_: pytest.fail("answered again"))
    assert scored(model, EXAMPLES, answers(NAMES), keep=tmp_path) == whole
    assert len(calls) == 3 + 3, "four batches, of which one was kept whole"
