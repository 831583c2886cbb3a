"""Chat templates: what is put before an answer, and which tokens are the assistant's."""

import pytest

from modules.benchmarks.instruct.rows.chat import encode, prepare, prompt_ids, stop_ids
from modules.benchmarks.instruct.rows.example import Example
from modules.pretraining.small_llama import letters
from variants.errors import UserError

THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}{{ '<|assistant|>short<|end|>' }}"
    "{% else %}{{ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A template that rewrites earlier answers, as those that leave out thoughts do."""


@pytest.fixture(scope="module")
def tokenizer():
    return letters()


def said(tokenizer, ids, targets):
    return tokenizer.decode([token for token, target in zip(ids, targets, strict=True) if target])


def test_a_prompt_is_what_stands_before_the_answer(tokenizer):
    example = Example((("user", "2 + 2?"),), "4")
    ids, targets = encode(example, tokenizer, "responses")
    before = prompt_ids(example, tokenizer)
    assert tokenizer.decode(ids) == "<|user|>2 + 2?<|end|><|assistant|>4<|end|>"
    assert ids[: len(before)] == before and not any(targets[: len(before)])
    assert said(tokenizer, ids, targets) == "4<|end|>"


def test_every_turn_of_the_assistant_is_trained_on(tokenizer):
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"))
    ids, targets = encode(Example(turns, "dd"), tokenizer, "responses")
    assert tokenizer.decode(ids) == "<|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>dd<|end|>"
    assert said(tokenizer, ids, targets) == "b<|end|>dd<|end|>"


def test_a_template_that_rewrites_answers_leaves_the_last_to_train_on():
    tokenizer = letters()
    tokenizer.chat_template = THINKING
    turns = (("user", "a"), ("assistant", "bbbb"), ("user", "c"))
    ids, targets = encode(Example(turns, "dd"), tokenizer, "responses")
    assert "<|assistant|>short<|end|>" in tokenizer.decode(ids) and said(tokenizer, ids, targets) == "dd<|end|>"


def test_all_tokens_where_wanted_and_plain_text_always(tokenizer):
    assert all(encode(Example((("user", "a"),), "b"), tokenizer, "all")[1])
    ids, targets = encode(Example((), "text", templated=False), tokenizer, "responses")
    assert all(targets) and tokenizer.decode(ids) == "text<|end|>"


def test_a_prompt_and_its_completion_are_taken_as_they_are(tokenizer):
    ids, targets = encode(Example((("user", "1 + 1 ="),), " 2", templated=False), tokenizer, "responses")
    assert tokenizer.decode(ids) == "1 + 1 = 2<|end|>" and said(tokenizer, ids, targets) == " 2<|end|>"


def test_a_tokenizer_without_a_template_gets_alpacas_and_it_is_said():
    tokenizer = letters()
    assert prepare(tokenizer, None) == ""
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template; take --template alpaca"):
        prepare(tokenizer, "tokenizer")
    assert "as the tokenizer has none" in prepare(tokenizer, None)
    example = Example((("user", "Add."),), "4")
    text = tokenizer.decode(prompt_ids(example, tokenizer))
    assert text.startswith("Below is an instruction") and text.endswith("### Instruction:\nAdd.\n\n### Response:\n")
    assert said(tokenizer, *encode(example, tokenizer, "responses")) == "4<|end|>"


def test_an_answer_ends_with_what_the_template_ends_a_turn_with(tokenizer):
    assert stop_ids(tokenizer) == (tokenizer.convert_tokens_to_ids("<|end|>"),)


def test_a_tokenizer_that_begins_texts_with_a_token_begins_prompts_with_it():
    """As LLaMA's: the prompt of LLM-Adapters goes through the tokenizer as a text there."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {chr(code): code for code in range(3, 128)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    own = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    assert prepare(own, None) == "chat template: alpaca, as the tokenizer has none"
    example = Example((("user", "2 + 2?"),), "4")
    text = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    text += "\n\n### Instruction:\n2 + 2?\n\n### Response:\n"
    assert prompt_ids(example, own) == own(text)["input_ids"]
    ids, targets = encode(example, own, "responses")
    assert ids == [*own(text + "4")["input_ids"], 1] and said(own, ids, targets) == "4</s>"
    assert prompt_ids(Example((("user", "2"),), "4", templated=False), own) == own("2")["input_ids"]
    prepare(own, "llm-adapters")
    assert own.decode(prompt_ids(example, own)).count(" " * 16) == 5
