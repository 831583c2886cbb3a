"""Examples as token ids: the tokenizer's chat template, and which tokens are the assistant's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.benchmarks.instruct.rows.example import Example, Message
from variants.errors import UserError, first_line


def _alpaca(asks: str, before: str, between: str, answers: str) -> str:
    """A chat template: the words that ask, then each instruction between a heading and the heading of its answer."""
    words = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    return (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\\n\\n' }}{% elif m.role == 'user' %}"
        f"{{% if loop.first %}}{{{{ '{words}{asks}' }}}}{{% endif %}}"
        f"{{{{ '{before}' + m.content + '{between}' + '{answers}' }}}}"
        "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    )


_IN = " " * 16
TEMPLATES = {
    "tokenizer": "",
    "alpaca": _alpaca("\\n\\n", "### Instruction:\\n", "\\n\\n", "### Response:\\n"),
    "llm-adapters": _alpaca(
        "  \\n\\n", f"{_IN}### Instruction:\\n{_IN}", f"\\n{_IN}\\n", f"{_IN}### Response:\\n{_IN}"
    ),
}
"""Chat templates by name: the tokenizer's own; Alpaca's prompt; the same with blanks before its lines, as LLM-Adapters
(arXiv 2304.01933) and DoRA train LLaMA on it (`generate_prompt` in their finetune.py)."""


def prepare(tokenizer: Any, template: str | None) -> str:
    """Settle a tokenizer's chat template; what is to be said of it, or "".

    Args:
        template: a key of `TEMPLATES`; None: the tokenizer's own, or Alpaca's where it has none.

    Raises:
        UserError: the tokenizer's own is wanted, and it has none.
    """
    if template == "tokenizer" and not tokenizer.chat_template:
        raise UserError("--template tokenizer: the tokenizer has no chat template; take --template alpaca")
    name = template or ("" if tokenizer.chat_template else "alpaca")
    if not TEMPLATES.get(name):
        return ""
    tokenizer.chat_template = ("{{ bos_token }}" if _begin(tokenizer) else "") + TEMPLATES[name]
    return f"chat template: {name}" + ("" if template else ", as the tokenizer has none")


def prompt_ids(example: Example, tokenizer: Any) -> list[int]:
    """What a model is given before it answers."""
    if not example.templated:
        return _begin(tokenizer) + _ids(tokenizer, example.prompt)
    return _ids(tokenizer, _render(tokenizer, example.messages, asks=True))


def encode(example: Example, tokenizer: Any, loss_on: str) -> tuple[list[int], list[bool]]:
    """Token ids of a whole example, and which of them are targets.

    Every turn of the assistant is one, with the token that ends it; with ``loss_on`` "all" everything is.
    """
    if not example.templated:
        before = prompt_ids(example, tokenizer)
        response = _ids(tokenizer, example.response) + [tokenizer.eos_token_id]
        ids, targets = before + response, [not example.messages] * len(before) + [True] * len(response)
    else:
        ids, targets = _turn_by_turn(example, tokenizer)
    return ids, ([True] * len(ids) if loss_on == "all" else targets)


def _turn_by_turn(example: Example, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """The text grows turn by turn: what an answer adds behind the words that ask for it is the assistant's."""
    messages = (*example.messages, ("assistant", example.response))
    ids: list[int] = []
    targets: list[bool] = []
    done = ""
    for number, (role, _) in enumerate(messages):
        if role != "assistant":
            continue
        asked = _render(tokenizer, messages[:number], asks=True)
        whole = _render(tokenizer, messages[: number + 1], asks=False)
        if not (asked.startswith(done) and whole.startswith(asked)):
            # a template that rewrites earlier turns (those that leave out thoughts do): the last answer alone counts
            asked, whole = _render(tokenizer, messages[:-1], asks=True), _render(tokenizer, messages, asks=False)
            if not whole.startswith(asked):
                raise UserError("the tokenizer's chat template changes a conversation when an answer is added to it")
            ids, targets, done, number = [], [], "", len(messages) - 1
        for text, target in ((asked[len(done) :], False), (whole[len(asked) :].rstrip("\n"), True)):
            part = _ids(tokenizer, text)
            ids += part
            targets += [target] * len(part)
        done = asked + whole[len(asked) :].rstrip("\n")
        if number == len(messages) - 1:
            break
    if tokenizer.eos_token_id is not None and ids and not _ends(tokenizer, ids[-1]):
        ids.append(tokenizer.eos_token_id)
        targets.append(True)
    return ids, targets


def _ends(tokenizer: Any, token: int) -> bool:
    """Whether a token ends a turn: the end token, or a special one of the template such as <|im_end|>."""
    return token == tokenizer.eos_token_id or token in tokenizer.all_special_ids


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end an answer: the end token, and what the chat template ends a turn with."""
    probe = encode(Example((("user", "a"),), "b"), tokenizer, "responses")[0][-1]
    return tuple(dict.fromkeys(t for t in (tokenizer.eos_token_id, probe) if t is not None))


def _render(tokenizer: Any, messages: Sequence[Message], asks: bool) -> str:
    turns = [{"role": role, "content": text} for role, text in messages]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
    except Exception as error:  # templates raise what they like, such as for a system message
        raise UserError(f"the tokenizer's chat template refuses these messages: {first_line(error)}") from None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _begin(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text: LLaMA's begins with a token."""
    ids = tokenizer("")["input_ids"]
    return ids[:1] if ids[:1] == [tokenizer.bos_token_id] else []
