"""The generated instructions that ship with the project, and the text that the small LLaMA is pretrained on.

Deterministic by seed on every Python. No fact of a test row stands in a training row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .lexicon import Dice
from .skills import CHAT, SKILLS, Skill, word

ROWS = {"train": 500, "test": 200}
"""Rows of each part."""
CHUNK = 1000
"""Documents of pretraining that share one random stream."""
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' }}{% else %}{{ '<|user|>' }}{% endif %}"
    "{{ m.content + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""The small LLaMA's chat template."""


def generate(part: str, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Rows in the form `messages`, with the short answer, of a part: split -> rows.

    Raises:
        KeyError: no such part.
    """
    skills = [skill for skill in SKILLS if skill.part == part]
    if not skills:
        raise KeyError(part)
    seen: set[str] = set()
    return {split: _rows(skills, Dice("instructions", part, split, seed), count, seen) for split, count in ROWS.items()}


def _rows(skills: list[Skill], dice: Dice, count: int, seen: set[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        skill = skills[len(rows) % len(skills)]
        facts = skill.draw(dice)
        if (known := skill.notation.format(**facts)) in seen:
            continue
        seen.add(known)
        asked = dice.pick(skill.sentences).format(**facts)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": facts["answer"]}]
        rows.append({"messages": turns, "answer": facts["answer"]})
    return rows


def documents(seed: int, chunk: int) -> Iterator[str]:
    """The documents of a chunk of the endless text: a few lines of notation, or small talk."""
    dice = Dice("notation", seed, chunk)
    for _ in range(CHUNK):
        if dice.chance(0.25):
            asked, answer = dice.pick(CHAT)
            facts = {"x": word(dice), "y": word(dice)}
            yield f"{USER}{asked.format(**facts)}{END}{ASSISTANT}{answer.format(**facts)}{END}"
            continue
        lines = (dice.pick(SKILLS) for _ in range(1 + dice.below(3)))
        yield "\n".join(skill.notation.format(**skill.draw(dice)) for skill in lines)
