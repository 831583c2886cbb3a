"""The forms in which people keep instruction data, as examples.

messages (or conversations)          turns of a chat; the last is the assistant's
prompt, completion                   texts as they are, or lists of messages
instruction, input, output, answer   Alpaca's form, and LLM-Adapters' with the short answer; it is what is to be said
                                     where the output is empty
question, answer                     GSM8K's: the number behind #### is the short answer
text                                 plain text: the loss is on all of it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modules.benchmarks.instruct.rows.example import Example, Message

ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
         "gpt": "assistant", "model": "assistant"}  # fmt: skip
"""What a speaker is called -> its role."""


class Malformed(ValueError):
    """What is wrong with a row, and how to mend it; whoever reads the file says where."""


def form_of(row: Mapping[str, Any]) -> str:
    """The name of a row's form.

    Raises:
        Malformed: it has none of the forms.
    """
    for name, (keys, _) in FORMS.items():
        if all(key in row for key in keys):
            return name
    known = "; ".join(" and ".join(keys) for keys, _ in FORMS.values())
    raise Malformed(f"has the keys {', '.join(map(str, row)) or 'none'}; a row needs one of: {known}")


def example_of(row: Any, form: str) -> Example:
    """A row of a form as an example.

    Raises:
        Malformed: something of it is missing or of another type.
    """
    if not isinstance(row, Mapping):
        raise Malformed(f"is {_type(row)}, and no object with keys such as instruction and output")
    keys, read = FORMS[form]
    if missing := [key for key in keys if key not in row]:
        raise Malformed(f"lacks {missing[0]!r}, which the rows before it have (form: {form})")
    return read(row)


def _text(row: Mapping[str, Any], key: str, empty: bool = False) -> str:
    value = row.get(key, "" if empty else None)
    if value is None and empty:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{key!r} is {_type(value)}, and no text: write it in quotes")
    if not empty and not value.strip():
        raise Malformed(f"{key!r} is empty: leave such rows out")
    return _whole(value, repr(key))


def _whole(text: str, where: str) -> str:
    """The text, if it is one: JSON can write half of a pair of surrogates, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{where} has half a character, \\u{ord(text[error.start]):04x}: take it out") from None
    return text


def _extras(row: Mapping[str, Any]) -> dict[str, Any]:
    """The short answer and the options, where a row gives them."""
    answer, options = row.get("answer", ""), row.get("options", row.get("choices", ()))
    if not isinstance(answer, (str, int, float)) or isinstance(answer, bool):
        raise Malformed(f"'answer' is {_type(answer)}, and neither a text nor a number")
    if not isinstance(options, Sequence) or isinstance(options, str) or not all(isinstance(o, str) for o in options):
        raise Malformed("'options' must be a list of texts")
    answer = str(answer).strip()
    if options and answer not in options:
        raise Malformed(f"the answer {answer!r} is none of its options: {', '.join(options)}")
    return {"answer": answer, "options": tuple(options)}


def _chat(row: Mapping[str, Any]) -> Example:
    key = "messages" if "messages" in row else "conversations"
    turns = _turns(row[key], key)
    if turns[-1][0] != "assistant":
        raise Malformed(f"{key!r} ends with {turns[-1][0]}'s turn: the last must be the assistant's")
    return Example(turns[:-1], turns[-1][1], **_extras(row))


def _turns(value: Any, key: str) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Malformed(f"{key!r} is {_type(value)}, and no list of messages")
    found: list[Message] = []
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, Mapping):
            raise Malformed(f"{key!r}: message {number} is {_type(turn)}, and no object with role and content")
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role not in ROLES:
            raise Malformed(f"{key!r}: message {number} has the role {role!r}; known are {', '.join(ROLES)}")
        if not isinstance(text, str) or (ROLES[role] == "assistant" and not text.strip()):
            raise Malformed(f"{key!r}: message {number} has no text as its content")
        found.append((ROLES[role], _whole(text, f"{key!r}: message {number}")))
    return tuple(found)


def _completion(row: Mapping[str, Any]) -> Example:
    if isinstance(row["prompt"], str):
        prompt, response = _text(row, "prompt", empty=True), _text(row, "completion")
        return Example((("user", prompt),) if prompt else (), response, templated=False, **_extras(row))
    before, after = _turns(row["prompt"], "prompt"), _turns(row["completion"], "completion")
    if len(after) != 1 or after[0][0] != "assistant":
        raise Malformed("'completion' must be one message of the assistant where 'prompt' is a list of messages")
    return Example(before, after[0][1], **_extras(row))


def _instruction(row: Mapping[str, Any]) -> Example:
    words, given = _text(row, "instruction"), _text(row, "input", empty=True)
    prompt = f"{words}\n\n{given}" if given.strip() else words
    system = _text(row, "system", empty=True)
    before = (("system", system),) if system.strip() else ()
    extras = _extras(row)
    response = _text(row, "output", empty=bool(extras["answer"]))
    return Example((*before, ("user", prompt)), response if response.strip() else extras["answer"], **extras)


def _question(row: Mapping[str, Any]) -> Example:
    response = _text(row, "answer")
    short = re.search(r"####\s*(\S+)", response)
    return Example((("user", _text(row, "question")),), response, answer=short[1].replace(",", "") if short else "")


def _plain(row: Mapping[str, Any]) -> Example:
    return Example((), _text(row, "text"), templated=False)


FORMS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Example]]] = {
    "messages": (("messages",), _chat),
    "conversations": (("conversations",), _chat),
    "prompt and completion": (("prompt", "completion"), _completion),
    "instruction and output": (("instruction", "output"), _instruction),
    "question and answer": (("question", "answer"), _question),
    "text": (("text",), _plain),
}
"""Form -> the keys that it must have, and how a row of it is read."""


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
