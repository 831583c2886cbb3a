"""Answers and choices of a tiny LLaMA against a forward pass of each row by itself."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modules.benchmarks.instruct.rows.chat import prompt_ids
from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.scores import scores_named, scoring
from modules.benchmarks.instruct.scores.scoring import Answers, by_part, option_sums, said, scored
from modules.pretraining.small_llama import letters

EXAMPLES = [
    Example((("user", "Is it?"),), "it is yes.", ("yes", "no"), "yes", "a"),
    Example((("user", "Which one of these three?"),), "three", ("one", "three", "two"), "three", "b"),
    Example((("user", "Or?"),), "no", ("no", "yes"), "no", "b"),
]


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=104, pad_token_id=0, eos_token_id=4, **sizes)).eval()


def answers(names, batch_size=2):
    return Answers(tuple(scores_named(names)), letters(), 5, batch_size, 64)


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


def test_answers_are_generates_own_row_by_row(model):
    tokenizer = letters()
    ((_, found),) = scored(model, EXAMPLES, answers(["exact"]))
    for example, answer in zip(EXAMPLES, found, strict=True):
        ids = torch.tensor([prompt_ids(example, tokenizer)])
        made = model.generate(ids, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(ids))
        assert answer == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_figures_are_means_of_parts_and_their_mean():
    found = by_part("exact", [1.0, 0.0, 1.0], EXAMPLES)
    assert found == {"a_exact": 1.0, "b_exact": 0.5, "average_exact": 0.75}
    whole = [Example((), "x")] * 2
    assert by_part("exact", [1.0, 0.0], whole) == {"exact": 0.5}


def test_what_was_done_is_not_done_again(model, tmp_path, monkeypatch):
    names = ["exact", "choice", "choice_norm"]
    first = scored(model, EXAMPLES, answers(names), keep=tmp_path)
    monkeypatch.setattr(scoring, "_sums", lambda *_: pytest.fail("computed again"))
    assert scored(model, EXAMPLES, answers(names), keep=tmp_path) == first
