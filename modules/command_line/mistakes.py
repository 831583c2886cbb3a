"""What was wrong with the flags of a benchmark's command, in the user's words."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from variants.command_line import KINDS, in_words, unknown_option
from variants.registry import BUILT_IN, outline

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def explain(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message, in the user's words."""
    message = " ".join(message.split())
    unknown = re.search(
        r"[Uu]nrecognized arguments?: -+([\w.-]+)"
        r"|(?:Key|[Oo]ption) [\"'`]?([\w.]+)[\"'`]? is not (?:expected|accepted)",
        message,
    )
    value = re.search(r'Parser key "([\w.]+)":.*(?:Given|Got) value: (.*)$', message)
    if value:
        kinds = re.findall(r"Expected an? <class '(\w+)'>", message)
        expected = " or ".join(dict.fromkeys(KINDS.get(k, k) for k in kinds if k != "NoneType")) or "of another kind"
        choices = re.search(r"Literal\[([^\]]*)\]", message)
        return f"--{value[1]} must be {'one of ' + choices[1] if choices else expected}, not {value[2]!r}"
    if not unknown:
        return in_words(message)
    name = unknown[1] or unknown[2]
    known = [a.dest for a in parser._actions]
    owners = [other for other in BUILT_IN if name in {f.name for f in dataclasses.fields(outline(other))}]
    variant = next((g.title for g in parser._action_groups if (g.title or "").startswith("options of ")), "")
    if owners:
        mine = variant.removeprefix("options of ") or "this variant"
        return f"--{name} is an option of {', '.join(owners)}, not of {mine}"
    return unknown_option(name, known)
