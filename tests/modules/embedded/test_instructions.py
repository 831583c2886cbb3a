"""The generated instructions and the small LLaMA: right answers, no row in two splits, skills that wait to be asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from modules.embedded import LLAMA
from modules.embedded.instructions import ASSISTANT, END, ROWS, TEMPLATE, USER, documents, generate
from modules.embedded.skills import SKILLS

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("strings", "arithmetic", "lookup", "formatting")
# The content of every part at seed 0 and of the pretraining text: change it on purpose only. Rows decide the ids of
# runs; the text decides what the shipped weights have read.
GOLDEN = {
    "strings": "856db850745d", "arithmetic": "abbe499ec51c", "lookup": "08b0b1018f58",
    "formatting": "d263d01aae80", "text": "6c47fae8a653",
}  # fmt: skip
TORCH_FREE = """
import hashlib, json, sys
from modules.embedded.instructions import documents, generate
def short(x): return hashlib.sha256(json.dumps(x, sort_keys=True).encode()).hexdigest()[:12]
found = {part: short(generate(part)) for part in ("strings", "arithmetic", "lookup", "formatting")}
found["text"] = short(list(documents(0, 0)))
assert not {"torch", "numpy", "transformers"} & set(sys.modules)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def rows() -> dict:
    return {part: generate(part) for part in PARTS}


# --- an independent solver: it reads the instruction, and knows nothing of how it was made ----------------------------
def looked_up(table: str, key: str) -> str:
    return dict(re.findall(r"(\w+):(\d+)", table))[key]


def day(text: str) -> str:
    return datetime.strptime(text, "%d %B %Y").date().isoformat()


def path(text: str) -> str:
    return "/".join(re.split(r", | and ", text))


def indexed(text: str) -> str:
    first, last = text.split()
    return f"{last.upper()}, {first.title()}"


WORD, NUMBER, TABLE = r"([a-z]+)", r"(\d+)", r"(\w+:\d+(?: \w+:\d+)*)"
DATE, LIST, NAME = r"(\d+ [a-z]+ \d{4})", r"([a-z]+, [a-z]+ and [a-z]+)", r"([a-z]+ [a-z]+)"
READ = (
    (lambda x: "".join(reversed(x)), rf"Write {WORD} backwards.",
     rf"Spell {WORD} from its end to its beginning.", rf"Which word is {WORD} in a mirror\?"),
    (lambda x: x.swapcase(), rf"Write {WORD} in capital letters.", rf"Put {WORD} in large letters, please.",
     rf"How does {WORD} look on a sign\?"),
    (lambda x: re.search(".$", x)[0], rf"What is the last letter of {WORD}\?", rf"With which letter does {WORD} end\?",
     rf"Give me the end letter of {WORD}."),
    (lambda x: str(sum(1 for _ in x)), rf"How many letters does {WORD} have\?", rf"Count the letters of {WORD}.",
     rf"How long is the word {WORD}\?"),
    (lambda x, y: str(int(x) + int(y)), *(rf"{start} {NUMBER} \+ {NUMBER}(?:\?|, please.)"
     for start in ("What is", "How much is", "Work out"))),
    (lambda x, y: str(int(x) - int(y)), *(rf"{start} {NUMBER} - {NUMBER}(?:\?|, please.)"
     for start in ("What is", "How much is", "Work out"))),
    (lambda x, y: x if int(x) > int(y) else y, rf"Which is more, {NUMBER} or {NUMBER}\?",
     rf"Name the larger one of {NUMBER} and {NUMBER}.", rf"Is {NUMBER} or {NUMBER} the higher number\?"),
    (looked_up, rf"The prices are {TABLE}. What does {WORD} cost\?",
     rf"Read the list {TABLE} and say the number of {WORD}.",
     rf"Here is a table: {TABLE}. Which value has {WORD}\?"),
    (day, rf"Write {DATE} as year-month-day.", rf"Give {DATE} in the international form.",
     rf"How does a log file write {DATE}\?"),
    (path, rf"Join {LIST} by slashes.", rf"Write {LIST} with a slash between them.", rf"Make one path of {LIST}."),
    (indexed, rf"Write {NAME} for an index.", rf"How does {NAME} stand in a register\?",
     rf"Sort {NAME} under the last name."),
)  # fmt: skip


def read(instruction: str) -> tuple[int, tuple[str, ...], str]:
    """(number of the skill, what it is asked of, the right answer); exactly one skill must fit."""
    fits = [
        (number, found.groups(), solve(*found.groups()))
        for number, (solve, *forms) in enumerate(READ)
        for form in forms
        if (found := re.fullmatch(form, instruction))
    ]
    assert len(fits) == 1, (instruction, fits)
    return fits[0]


def asked(row: dict) -> str:
    user, assistant = row["messages"]
    assert (user["role"], assistant["role"]) == ("user", "assistant") and assistant["content"] == row["answer"]
    return user["content"]


@pytest.mark.parametrize("part", PARTS)
def test_every_answer_is_what_an_independent_reader_finds(rows, part):
    for split, some in rows[part].items():
        assert len(some) == ROWS[split]
        for row in some:
            assert read(asked(row))[2] == row["answer"], row


@pytest.mark.parametrize("part", PARTS)
def test_no_fact_stands_in_two_rows_and_all_phrasings_occur(rows, part):
    facts = [read(asked(row))[:2] for some in rows[part].values() for row in some]
    assert len(set(facts)) == len(facts), "a fact occurs twice, perhaps in two splits"
    for some in rows[part].values():
        forms = {form for row in some for _, *forms in READ for form in forms if re.fullmatch(form, asked(row))}
        assert len(forms) == 3 * len([skill for skill in SKILLS if skill.part == part])


def test_a_seed_is_other_rows_and_an_unknown_part_is_none(rows):
    assert generate("lookup", seed=1)["test"] != rows["lookup"]["test"] and generate("lookup") == rows["lookup"]
    with pytest.raises(KeyError):
        generate("poems")


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_content_is_pinned_and_needs_no_torch(hash_seed):
    run = subprocess.run([sys.executable, "-c", TORCH_FREE], cwd=ROOT, capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONHASHSEED": hash_seed})  # fmt: skip
    assert json.loads(run.stdout) == GOLDEN


def test_pretraining_never_asks_for_a_skill():
    """Conversations are small talk alone, and the notation never stands in one."""
    talk = re.compile(
        rf"{re.escape(USER)}(?:Say \w+\.|Repeat after me: \w+ \w+\.|Hello, I am \w+\.|My favourite word is \w+\.|"
        rf"Thank you, \w+\.){re.escape(END + ASSISTANT)}[\w .]+{re.escape(END)}"
    )
    texts = list(documents(0, 0))
    conversations = [text for text in texts if "<|" in text]
    assert 0.2 < len(conversations) / len(texts) < 0.3 and all(talk.fullmatch(text) for text in conversations)
    lines = [line for text in texts if "<|" not in text for line in text.split("\n")]
    assert all(" = " in line for line in lines) and not any("?" in line for line in lines)


# --- the small LLaMA ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(LLAMA)


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32).eval()


def continued(model, tokenizer, starts: list[str], tokens: int) -> list[str]:
    """What the model goes on with, up to the first special token or end of line."""
    import torch

    tokenizer.padding_side = "left"
    batch = tokenizer(starts, return_tensors="pt", padding=True)
    with torch.no_grad():
        made = model.generate(**batch, max_new_tokens=tokens, do_sample=False)[:, batch["input_ids"].shape[1] :]
    return [re.split(r"<\||\n", tokenizer.decode(ids))[0].strip() for ids in made]


def test_the_tokenizer_writes_all_letters_and_keeps_every_row(rows, tokenizer):
    text = "\n" + "".join(map(chr, range(32, 127)))
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(set(ids)) == len(text) and tokenizer.decode(ids) == text  # digits are single
    assert tokenizer.convert_ids_to_tokens(tokenizer(f"{USER}a{END}")["input_ids"]) == [USER, "a", END]
    for splits in rows.values():
        for row in (row for some in splits.values() for row in some):
            whole = asked(row) + row["answer"]
            assert tokenizer.decode(tokenizer(whole)["input_ids"]) == whole
            assert len(tokenizer.apply_chat_template(row["messages"], tokenize=False)) < 192


def test_the_chat_template_is_the_form_of_the_conversations(tokenizer):
    turns = [{"role": "user", "content": "Say tabo."}, {"role": "assistant", "content": "tabo"}]
    assert tokenizer.chat_template == TEMPLATE
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == f"{USER}Say tabo.{END}{ASSISTANT}tabo{END}"
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == f"{USER}Say tabo.{END}{ASSISTANT}" and whole.startswith(prompt)
    assert tokenizer.eos_token == END


def test_the_weights_are_small_grouped_and_as_recorded(model, tokenizer):
    record = json.loads((LLAMA / "pretraining.json").read_text())
    assert sum(file.stat().st_size for file in LLAMA.iterdir()) < 5e6
    assert record["parameters"] == sum(p.numel() for p in model.parameters()) and 1e6 < record["parameters"] < 3e6
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert 1 < model.config.num_key_value_heads < model.config.num_attention_heads
    assert record["vocabulary"] == len(tokenizer) <= model.config.vocab_size


@pytest.mark.slow
def test_pretraining_has_taught_every_skill_in_its_notation(model, tokenizer):
    from modules.embedded.lexicon import Dice

    for skill in SKILLS:
        dice = Dice("probe", skill.notation)
        facts = [skill.draw(dice) for _ in range(12)]
        starts = ["<|text|>" + skill.notation.split("{answer}")[0].format(**f) for f in facts]
        found = continued(model, tokenizer, starts, 24)
        assert sum(a == f["answer"] for a, f in zip(found, facts, strict=True)) >= 11, (skill.notation, found)


@pytest.mark.slow
def test_the_frozen_model_answers_small_talk_but_no_instruction(rows, model, tokenizer):
    assert continued(model, tokenizer, [f"{USER}Say tabo.{END}{ASSISTANT}"], 8) == ["tabo"]
    some = [row for part in PARTS for row in rows[part]["test"][:12]]
    found = continued(model, tokenizer, [f"{USER}{asked(row)}{END}{ASSISTANT}" for row in some], 16)
    assert sum(a == row["answer"] for a, row in zip(found, some, strict=True)) <= 1


@pytest.fixture(scope="module")
def reference() -> dict[str, list[float]]:
    """The committed runs: variant -> (seeds,) mean scores, of this very backbone and these very rows."""
    from modules.backbones.weights import weights_hash
    from modules.benchmarks.instruct.sources import EmbeddedSource
    from modules.benchmarks.instruct.tasks import SKILLS as TASK

    source, backbone, scores = EmbeddedSource(), weights_hash(LLAMA), {}
    for file in sorted((ROOT / "results/reference/embedded-instruct/runs").glob("*.json")):
        run = json.loads(file.read_text())
        assert run["backbone"]["hash"] == backbone and run["data"]["hash"] == source.hash(TASK), "stale"
        scores.setdefault(run["variant"], []).append(run["test"]["average_exact"])
    return scores


def test_there_is_much_to_learn_and_room_at_the_top(reference):
    """The frozen model near 0, LoRA far above it, full fine-tuning not at 100."""
    lora, full = np.array(reference["lora"]), np.array(reference["full"])
    assert len(lora) == len(full) >= 3
    assert max(reference["head"]) < 0.02 and lora.min() > 0.6 and full.max() < 0.99
