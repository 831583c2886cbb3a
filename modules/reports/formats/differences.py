"""The differences between the rows of a table: as Markdown under the table, as CSV, and for a terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules.reports.formats.text_table import text_table
from modules.reports.tables.pairs import ALIKE, base_pairs, lora_pairs, scheme
from modules.reports.tables.section import Section
from modules.reports.tables.significance import ALPHA, Comparison, Difference, compare

SHOWN = 15
"""Most pairs in the Markdown; where there are more, only those with the best row are shown."""
LISTED = 6
"""Most rows that a sentence names."""

CSV_COLUMNS = [
    "benchmark", "backbone", "backbone_hash", "data", "figure", "columns", "seeds", "pairs_compared",
    "first", "first_label", "first_protocol", "second", "second_label", "second_protocol",
    "difference", "low", "high", "standard_error", "freedom", "p", "p_holm", "supported",
]  # fmt: skip


def differences_markdown(section: Section) -> str:
    """The part below a section's table; "" where no two rows share tasks and three seeds."""
    comparisons = compare(section)
    if not comparisons:
        return ""
    epoch = "the scored epoch" if section.benchmark.columns[0].metric else "best epoch"
    note = (
        f"Paired by task and seed. Intervals and p hold for all pairs of a comparison together (Holm, "
        f"{100 * (1 - ALPHA):g}%): an interval without 0 is a difference that the spread supports. Means over "
        f"the seeds; {epoch}, as in the table. `results/README.md` says how they are computed."
    )
    parts = ["### Differences", note, *(_text(section, c) for c in comparisons)]
    return "\n\n".join([*parts, *(part for question in QUESTIONS for part in _question_markdown(section, question))])


@dataclass(frozen=True)
class Question:
    """Some pairs of a section's rows, which are tested by themselves.

    Attributes:
        title, note: what stands above the table; head: of its first columns, before difference, interval and p.
        pairs: positions of the rows, first minus second; about: what the second column says of one.
    """

    title: str
    note: str
    head: tuple[str, ...]
    pairs: Callable[[Section], list[tuple[int, int]]]
    about: Callable[[Section, Difference, Callable[[Section, int], str]], str]

    def lines(self, section: Section, comparison: Comparison, name: Callable[[Section, int], str]) -> list[tuple]:
        """The table's head and a line for each pair."""
        digits = max(column.digits for column in comparison.columns)
        means = dict(zip(comparison.rows, comparison.means, strict=True))
        found = [(*self.head, "difference", "interval", "p", "")]
        for d in comparison.differences:
            both = (f"{means[row]:.{digits}f}" for row in (d.first, d.second))
            found.append((name(section, d.first), self.about(section, d, name), *both, *_figures(d, digits)))
        return found


QUESTIONS = (
    Question(
        "A base in few bits against the same base as it is",
        "Nothing else differs.",
        ("row", "base", "in few bits", "as it is"),
        base_pairs,
        lambda section, d, name: scheme(section.rows[d.first]),
    ),
    Question(
        "Each method against LoRA of about the same size",
        f"The nearest of LoRA's rows, where neither trains more than {ALIKE:g} times as many parameters as the other.",
        ("row", "LoRA", "score", "LoRA's score"),
        lora_pairs,
        lambda section, d, name: name(section, d.second),
    ),
)


def _question_markdown(section: Section, question: Question) -> list[str]:
    """The answer to a question, nothing where the section has no such rows."""
    if not (comparisons := compare(section, question.pairs(section))):
        return []
    note = f"{question.note} Paired by task and seed; Holm's correction is over these pairs alone."
    parts = [f"### {question.title}", note]
    for comparison in comparisons:
        head, *lines = question.lines(section, comparison, _name)
        table = "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *lines))
        seeds = ", ".join(map(str, comparison.seeds))
        parts.append(f"**{heading(comparison)}**, seeds {seeds}{_summary(comparison)}\n\n{table}")
    return parts


def _summary(comparison: Comparison) -> str:
    """Where there are many pairs, what they come to; the lowest end says which loss they do not exclude."""
    found = comparison.differences
    if len(found) <= SHOWN:
        return ""
    digits = max(column.digits for column in comparison.columns)
    apart = [d.mean for d in found if d.supported]
    mean, lowest = math.fsum(d.mean for d in found) / len(found), min(d.low for d in found)
    return (
        f". Of {len(found)} pairs {len(apart)} are told apart, {sum(each < 0 for each in apart)} of them below 0; the "
        f"mean of all differences is {mean:+.{digits}f}, the lowest end of an interval {lowest:+.{digits}f}."
    )


def differences_text(sections: Sequence[Section]) -> str:
    """The differences for a terminal: what the spread supports, and each pair; "" where there is nothing to compare."""
    parts = []
    for section in sections:
        for comparison in compare(section):
            digits = max(column.digits for column in comparison.columns)
            lines = [("pair", "difference", "interval", "p", "")]
            for d in _shown(comparison):
                name = f"{_named(section, d.first)} - {_named(section, d.second)}"
                lines.append((name, *_figures(d, digits)))
            seeds = ", ".join(map(str, comparison.seeds))
            parts += ["", f"differences: {heading(comparison)}, paired by task and seed ({seeds})"]
            parts.append(verdict_text(section, comparison, _named))
            parts.append(text_table(lines))
        for question in QUESTIONS:
            for comparison in compare(section, question.pairs(section)):
                parts += ["", f"{question.title[0].lower()}{question.title[1:]}: {heading(comparison)}"]
                parts.append(text_table(question.lines(section, comparison, _named)))
    return "\n".join(parts)


def _named(section: Section, row: int) -> str:
    """A row by its variant, and by what sets it off from the section's other rows of that variant."""
    own = section.rows[row]
    alike = [other.label.split() for other in section.rows if other.variant == own.variant]
    words = [word for word in own.label.split() if not all(word in label for label in alike)]
    return " ".join([own.variant, *words])


def _shown(comparison: Comparison) -> Sequence[Difference]:
    """All pairs, or where there are many those with the best row."""
    if len(comparison.differences) <= SHOWN:
        return comparison.differences
    return [d for d in comparison.differences if comparison.rows[0] in (d.first, d.second)]


def _text(section: Section, comparison: Comparison) -> str:
    digits = max(column.digits for column in comparison.columns)
    shown = _shown(comparison)
    lines = ["| Pair | Difference | Interval | p | |", "| --- | --- | --- | --- | --- |"]
    for d in shown:
        cells = (f"{_name(section, d.first)} - {_name(section, d.second)}", *_figures(d, digits))
        lines.append(f"| {' | '.join(cells)} |")
    if len(shown) < len(comparison.differences):
        lines.append("")
        lines.append(f"All {len(comparison.differences)} pairs are in `{section.benchmark.name}-differences.csv`.")
    seeds = ", ".join(map(str, comparison.seeds))
    return f"**{heading(comparison)}**, seeds {seeds}. {verdict_text(section, comparison)}\n\n" + "\n".join(lines)


def heading(comparison: Comparison) -> str:
    """Name of the compared score: a column, or the mean of several."""
    titles = [column.title for column in comparison.columns]
    return titles[0] if len(titles) == 1 else "Mean of " + ", ".join(titles)


def verdict_text(section: Section, comparison: Comparison, name: Callable[[Section, int], str] | None = None) -> str:
    """The row that is significantly the best, or else the rows that do not differ significantly from the best.

    Args:
        name: a row's name; None for its number and variant.
    """
    name = name or _name
    digits = max(column.digits for column in comparison.columns)
    means = dict(zip(comparison.rows, comparison.means, strict=True))
    best = comparison.rows[0]
    above, highest = ("below", "lowest") if comparison.less_is_better else ("above", "highest")
    if comparison.winner is not None:
        return f"Best: {name(section, best)} ({means[best]:.{digits}f}), {above} every other row."
    tied = [f"{name(section, row)} ({means[row]:.{digits}f})" for row in comparison.tied[1:]]
    more = [f"and {len(tied) - LISTED} more"] if len(tied) > LISTED else []
    return (
        f"No winner: the spread does not tell the {highest}, {name(section, best)} ({means[best]:.{digits}f}), from "
        f"{', '.join([*tied[:LISTED], *more])}."
    )


def _name(section: Section, row: int) -> str:
    return f"[{row + 1}] {section.rows[row].variant}"


def _figures(d: Difference, digits: int) -> tuple[str, str, str, str]:
    """Difference, interval, p, and what the spread does not support."""
    verdict = "" if d.supported else "not told apart"
    return f"{d.mean:+.{digits}f}", _interval(d, digits), _p(d.corrected), verdict


def _interval(d: Difference, digits: int) -> str:
    return f"{d.low:+.{digits}f} to {d.high:+.{digits}f}" if math.isfinite(d.low) else "none: no spread"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def differences_csv(sections: Sequence[Section]) -> str:
    """A line for every pair of every comparison; the header alone where there is none."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for comparison in compare(section):
            writer.writerows(_line(section, comparison, d) for d in comparison.differences)
    return out.getvalue()


def _line(section: Section, comparison: Comparison, d: Difference) -> dict:
    first, second = section.rows[d.first], section.rows[d.second]
    return {
        "benchmark": section.benchmark.name,
        "backbone": section.backbone["name"],
        "backbone_hash": section.backbone["hash"],
        "data": section.data["name"],
        "figure": heading(comparison),
        "columns": " ".join(column.key for column in comparison.columns),
        "seeds": " ".join(map(str, comparison.seeds)),
        "pairs_compared": len(comparison.differences),
        **{"first": first.variant, "first_label": first.label, "first_protocol": first.protocol},
        **{"second": second.variant, "second_label": second.label, "second_protocol": second.protocol},
        **{name: _number(value) for name, value in (("difference", d.mean), ("low", d.low), ("high", d.high))},
        **{"standard_error": _number(d.error), "freedom": _number(d.freedom), "p": _number(d.p)},
        **{"p_holm": _number(d.corrected), "supported": d.supported},
    }


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""
