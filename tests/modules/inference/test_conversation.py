"""Turns with a language model."""

from __future__ import annotations

import pytest
import torch

from modules.benchmarks.instruct.rows.chat import prompt_ids
from modules.benchmarks.instruct.rows.example import Example
from modules.inference.conversation import Conversation
from modules.inference.speaker import Speaker, speaker
from variants.errors import UserError


@pytest.fixture(scope="module")
def small() -> Speaker:
    return speaker("embedded")


def greedy(small: Speaker, ids: list[int], tokens: int) -> str:
    """An independent search: the likeliest token, one after the other, without a cache."""
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids = [*ids, int(small.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
        if ids[-1] == small.tokenizer.eos_token_id:
            break
    return small.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_a_turn_hears_the_turns_before(small) -> None:
    talk = Conversation(small, "Be short.", max_new_tokens=6)
    first, second = talk.say("Say red"), talk.say("Say blue")
    turns = (("system", "Be short."), ("user", "Say red"), ("assistant", first), ("user", "Say blue"))
    assert second == greedy(small, prompt_ids(Example(turns, ""), small.tokenizer), 6)
    assert talk.turns == [*turns[1:], ("assistant", second)]
    talk.reset()
    assert talk.say("Say red") == first and len(talk.turns) == 2, "the system's words stay"


def test_what_is_drawn_follows_from_the_seed(small) -> None:
    said = [Conversation(small, None, 12, temperature=3.0, seed=seed).say("Say red") for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
    likeliest = [Conversation(small, None, 12, temperature=0.0, seed=seed).say("Say red") for seed in (1, 2)]
    assert likeliest[0] == likeliest[1]


def test_the_oldest_turns_go_where_there_is_no_room(small) -> None:
    positions = small.model.config.max_position_embeddings
    talk = Conversation(small, None, max_new_tokens=4)
    for _ in range(4):
        talk.say("a" * (positions // 3))
    assert len(talk.turns) < 8 and talk.turns[0][0] == "user"
    before = list(talk.turns)
    with pytest.raises(UserError, match=f"the model has room for {positions}"):
        talk.say("a" * positions)
    assert talk.turns == before, "nothing was said"
