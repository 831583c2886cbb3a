"""The table of methods in docs/methods/README.md: ``python docs/methods_table.py`` writes it anew.

Names, sources and equations are those of the methods' pages, scores those of a comparison's result files; the rest is
found out by putting each on small models.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import torch
from torch import nn

from modules.benchmarks.glue import GLUE
from modules.reports.tables.build import build
from modules.reports.tables.significance import compare
from modules.runs.results import ResultStore
from variants import attach
from variants.adapters.late import reading
from variants.adapters.stacked_layer import why_not
from variants.contract.models import Tiny
from variants.formats.peft.common import NAMES
from variants.formats.peft.forms import FORMS
from variants.formats.peft.methods import LORA
from variants.layer import seeded
from variants.registry import BUILT_IN, resolve
from variants.sites.site import Site
from variants.variant import BaseVariant, Variant

PAGES = Path(__file__).parent / "methods"
README = PAGES / "README.md"
COMPARISON = PAGES.parents[1] / "results" / "reference" / "methods-minilm"
COLUMNS = (
    *("Method", "Source", "Equation", "Trained", "Merge", "W₀", "4-bit", "Conv", "Seeds stacked", "PEFT's files"),
    "MiniLM at 18K, 74K",
)
SIDE = 768


def table() -> str:
    """Markdown: a row for each built-in method, in alphabetical order."""
    scores = _scores()
    lines = [COLUMNS, ("---",) * len(COLUMNS), *((*_row(name), scores.get(name, "-")) for name in BUILT_IN)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(name: str) -> tuple[str, ...]:
    variant = resolve(name)()
    title, source, equation = _page(name)
    return (
        f"[{title}]({name}.md) `{name}`",
        source,
        equation,
        _trained(variant),
        _merges(variant),
        _weight(variant),
        "no" if _trains_matrices(variant) else "yes",
        "yes" if isinstance(variant, Variant) else "no",
        "yes" if why_not(variant) is None else "no",
        "both ways" if name in (*NAMES, *FORMS) else "as LoRA" if name in LORA else "no",
    )


def _scores() -> dict[str, str]:
    """The means over tasks and seeds of a method's rows at the two budgets; one of a method whose size is its own."""
    (section,) = build(ResultStore(COMPARISON).all(), GLUE)
    (comparison,) = compare(section)
    found: dict[str, dict[int, float]] = {}
    for number, mean in zip(comparison.rows, comparison.means, strict=True):
        row = section.rows[number]
        size = row.runs[0].parameters["adapter"]
        found.setdefault(row.variant, {})[size] = mean
    return {name: ", ".join(f"{sizes[size]:.1f}" for size in sorted(sizes)) for name, sizes in found.items()}


def _page(name: str) -> tuple[str, str, str]:
    """Title, source and equation of a method's page."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    title = re.match(r"# (.+) \(`", text)[1]
    found = re.search(r"^(\S[^*\n]+), \*.+?\*, (\[arXiv [\d.]+\]\(\S+\))", text, re.MULTILINE)
    equation = re.search(r"\$\$(.+?)(?:,?\s*\\qquad.*?)?\$\$", text, re.DOTALL)
    inline = " ".join(equation[1].split()).replace("|", r"\vert ") if equation else ""
    return title, f"{found[1]}, {found[2]}" if found else "-", f"${inline}$" if inline else "-"


def _sized(variant: BaseVariant, size: int = 2) -> BaseVariant:
    return variant.sized(size) if variant.size else variant


def _merges(variant: BaseVariant) -> str:
    if not variant.mergeable:
        return "no"
    return "yes" if attach(Tiny(), _sized(variant)).layers else "in place"


def _trains_matrices(variant: BaseVariant) -> bool:
    """Weights of the base, which few bits cannot hold."""
    model = Tiny()
    parameters = dict(model.named_parameters())
    return any(parameters[name].ndim > 1 for name in _sized(variant).trainable(model))


def _trained(variant: BaseVariant) -> str:
    """Parameters at one map of 768 x 768, with the default options."""
    if not isinstance(variant, Variant):
        return "-"
    model = nn.Sequential()
    model.add_module("map", nn.Linear(SIDE, SIDE, device="meta"))
    count = attach(model, dataclasses.replace(variant, target="map"), head=[]).count()["adapter"]
    return f"{count:,} ({variant.size} = {getattr(variant, variant.size)})" if variant.size else f"{count:,}"


def _weight(variant: BaseVariant) -> str:
    """What a layer does with the base weight."""
    if variant.subtract_initial:
        return "changed"
    if not isinstance(variant, Variant):
        return "-"
    model = nn.Sequential()
    model.add_module("map", nn.Linear(16, 16))
    site, small = Site(model.map, "map", "map"), dataclasses.replace(_sized(variant), target="map")
    with reading(site) as at_start:
        layer = small.layer(site, small, seeded(0, "map"), **small.shared([site], 0))
    times, used = site.times, []
    site.times = lambda x: used.append(x) or times(x)
    with reading(site) as in_pass, torch.no_grad():
        layer(torch.zeros(1, 16), torch.zeros(1, 16))
    return "read in every pass" if used or in_pass else "read at the start" if at_start else "not read"


def replaced(text: str) -> str:
    """The page with the table of now."""
    head = f"| {' | '.join(COLUMNS)} |\n"
    start = text.index(head)
    return text[:start] + table() + text[text.index("\n\n", start) :]


if __name__ == "__main__":
    README.write_text(replaced(README.read_text(encoding="utf-8")), encoding="utf-8")
