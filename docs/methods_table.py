"""The table of methods in docs/methods/README.md, and the section "Our figures" of each method's page:
``python docs/methods_table.py`` writes them anew.

Names, sources and equations are those of the methods' pages, scores those of comparisons' result files; the rest is
found out by putting each on small models.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import nn

from modules.benchmarks.base import Benchmark, Column
from modules.benchmarks.e2e import E2E
from modules.benchmarks.glue import GLUE
from modules.reports.tables.build import build
from modules.reports.tables.cells import score_text, with_spread
from modules.reports.tables.pairs import lora_pairs
from modules.reports.tables.rate_curves import Trials, ratio
from modules.reports.tables.section import Row, Section
from modules.reports.tables.significance import Difference, compare
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
REFERENCE = PAGES.parents[1] / "results" / "reference"
COLUMNS = ("Method", "Source", "Equation", "Trained", "Merge", "W₀", "4-bit", "Conv", "Seeds stacked", "PEFT's files")
SIDE = 768


HEADING = "\n## Our figures\n"
"""Of the section of a method's page that is written here, up to the next heading."""


@dataclass(frozen=True)
class Comparison:
    """A comparison whose rows stand on the methods' pages.

    Attributes:
        folder: of its results.
        column: its heading in the table of all methods.
        protocol: in half a line.
    """

    folder: str
    benchmark: Benchmark
    column: str
    protocol: str

    @cached_property
    def section(self) -> Section:
        """Its rows, and the curves of its trials."""
        place = REFERENCE / self.folder
        (section,) = build(ResultStore(place).all(), self.benchmark, trials=Trials.of(place))
        return section

    @cached_property
    def against_lora(self) -> dict[int, Difference]:
        """By a row's position its difference from LoRA of its size: in the mean, or in the first column."""
        (first, *_) = compare(self.section, lora_pairs(self.section))
        return {difference.first: difference for difference in first.differences}

    @cached_property
    def scores(self) -> dict[str, str]:
        """By method its rows in the order of their sizes, usually two; one of a method whose size is its own."""
        found: dict[str, dict[int, float]] = {}
        for row in self.section.rows:
            found.setdefault(row.variant, {})[row.runs[0].parameters["adapter"]] = self._score(row)
        return {name: ", ".join(f"{sizes[size]:.1f}" for size in sorted(sizes)) for name, sizes in found.items()}

    def _score(self, row: Row) -> float:
        """The mean of all columns, or, where they are no scores of one kind, the first."""
        return _mean(row) if self.benchmark.average else statistics.fmean(row.cells[self.columns[0].key].values())

    @property
    def columns(self) -> list[Column]:
        """Those of the section that a row has a score in."""
        return [each for each in self.section.columns if any(each.key in row.cells for row in self.section.rows)]


COMPARISONS = (
    Comparison(
        "methods-minilm",
        GLUE,
        "MiniLM at 18K, 74K",
        "all-MiniLM-L6-v2 (22M, **not RoBERTa**), pooler frozen, one to six epochs; the best of five learning rates by "
        "one half of dev, scored on the other half, three seeds",
    ),
    Comparison(
        "methods-e2e",
        E2E,
        "E2E at 131K (BLEU)",
        "a GPT-2 of 51M (**not GPT-2 medium**), one epoch, test set; the best of five learning rates by the dev loss, "
        "three seeds",
    ),
)


def table() -> str:
    """Markdown: a row for each built-in method, in alphabetical order."""
    head = (*COLUMNS, *(comparison.column for comparison in COMPARISONS))
    lines = [head, ("---",) * len(head)]
    lines += [(*_row(name), *(comparison.scores.get(name, "-") for comparison in COMPARISONS)) for name in BUILT_IN]
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


def _mean(row: Row) -> float:
    return statistics.fmean(statistics.fmean(cell.values()) for cell in row.cells.values())


def figures(name: str) -> str:
    """Markdown of a method's rows in the comparisons, and of where else it was run."""
    parts = []
    for comparison in COMPARISONS:
        if lines := _figures(name, comparison):
            place = f"../../results/reference/{comparison.folder}"
            links = f"[findings]({place}/README.md), [whole table]({place}/tables/{comparison.benchmark.name}.md)"
            cells = "Scores are medians ± standard deviations of the seeds"
            cells += ", the mean is of the seeds' means." if comparison.benchmark.average else "."
            about = f"**{comparison.benchmark.title}**: {comparison.protocol} ({links}). {cells}"
            parts += [about, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    if elsewhere := [
        f"[{folder}](../../results/reference/{folder}/README.md)" for folder in _elsewhere().get(name, ())
    ]:
        parts.append(f"Rows under other protocols: {', '.join(elsewhere)}.")
    return "\n\n".join(parts or ["There are none yet."])


def _figures(name: str, comparison: Comparison) -> list[list[str]]:
    section = comparison.section
    rows = [(number, row) for number, row in enumerate(section.rows) if row.variant == name]
    columns = comparison.columns
    whole = comparison.benchmark.average
    head = ["Options", "Trained", "lr", *(column.title for column in columns), *(["Mean"] if whole else [])]
    head.append("Minus LoRA of its size" if whole else f"{columns[0].title} minus LoRA's of its size")
    lines = []
    for number, row in sorted(rows, key=lambda each: each[1].runs[0].parameters["adapter"]):
        label = " ".join(word for word in row.label.split() if not word.startswith(("lr=", "budget=")))
        line = [f"`{label}`" if label else "-", f"{row.runs[0].parameters['adapter']:,}", _rate(row, section)]
        line += [score_text(row.cells.get(column.key)) or "-" for column in columns]
        line += [with_spread(_mean(row), row.mean(columns)[1])] if whole else []
        lines.append([*line, _against(comparison.against_lora.get(number), columns[0].digits)])
    return [head, ["---"] * len(head), *lines] if lines else []


def _rate(row: Row, section: Section) -> str:
    """The learning rate, and how many times that of LoRA it is where both were searched."""
    (rate,) = {run.training["lr"] for run in row.runs}
    own = (row.variant, row.runs[0].variant_config)
    curve = next((c for c in section.curves if (c.variant, c.runs[0].variant_config) == own), None)
    words = []
    if curve and curve.best == rate and curve.parameters and row.variant != "lora":
        times = ratio(curve, section.curves)
        words = [f"{times:.3g} x LoRA's" if times >= 1 else f"1/{1 / times:.3g} of LoRA's"]
    if curve and curve.best == rate and curve.at_an_end:
        words.append("an end")
    return f"{rate:g} ({', '.join(words)})" if words else f"{rate:g}"


def _against(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return "-"
    low, high = (f"{end:+.{digits}f}" for end in (difference.low, difference.high))
    told = "told apart" if difference.supported else "not told apart"
    unknown = "" if math.isinf(difference.low) else f" ({low} to {high})"
    return f"{difference.mean:+.{digits}f}{unknown}, {told}"


@lru_cache
def _elsewhere() -> dict[str, list[str]]:
    """By method the other folders of results that have runs of it."""
    found: dict[str, list[str]] = {}
    known = {comparison.folder for comparison in COMPARISONS}
    for folder in sorted(path for path in REFERENCE.iterdir() if path.name not in known):
        for name in sorted({run.variant for run in ResultStore(folder).all()}):
            found.setdefault(name, []).append(folder.name)
    return found


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
    """The README with the table of now."""
    start = text.index(f"| {' | '.join(COLUMNS)} |")
    return text[:start] + table() + text[text.index("\n\n", start) :]


def replaced_figures(name: str, text: str) -> str:
    """A method's page with the figures of now."""
    start = text.index(HEADING) + len(HEADING)
    return f"{text[:start]}\n{figures(name)}\n{text[text.index(chr(10) + '## ', start) :]}"


def pages() -> dict[Path, str]:
    """What each file is to hold."""
    found = {PAGES / f"{name}.md": name for name in BUILT_IN}
    texts = {path: replaced_figures(name, path.read_text(encoding="utf-8")) for path, name in found.items()}
    return texts | {README: replaced(README.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
