"""Significance of the differences between rows: a paired test over tasks and seeds, with confidence intervals.

The unit is a pair: the runs of two rows with the same task and the same seed, and the difference of their scores. The
tasks are fixed and the seeds are random draws: the estimate is the difference of the expected scores on these tasks,
not on tasks in general. Its standard error therefore comes from the spread of the pairs within each task (different
mean differences between tasks add nothing), with Student's t and Welch's degrees of freedom. Tasks that start from
another task's run share its randomness: they form one block with it, and their pairs are averaged by seed first. What
few seeds leave unknown of a pair's spread is borrowed from the other pairs (`moderation`).

All pairs of rows are tested, so p is corrected by Holm's method, and each interval has the level at which Holm's method
tested its pair: it excludes 0 exactly where the corrected p is below 5%.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modules.benchmarks.base import Column
from modules.reports.tables.moderation import gap, moderated, rounding
from modules.reports.tables.section import Cell, Row, Section

ALPHA = 0.05
"""Error level of a whole comparison."""
FEWEST = 3
"""Seeds that a comparison needs."""


@dataclass(frozen=True)
class Difference:
    """Expected score of one row minus that of another, in the table's units.

    Attributes:
        first, second: positions in the section's rows.
        error, freedom: standard error and degrees of freedom; an error of 0 means that the spread is unknown.
        corrected: p after Holm; low, high: the interval of Holm's level.
    """

    first: int
    second: int
    mean: float
    error: float
    freedom: float
    corrected: float = 1.0
    low: float = -math.inf
    high: float = math.inf

    @functools.cached_property
    def p(self) -> float:
        """Of two-sided Student's t; 1 where the spread is unknown."""
        return two_sided(self.mean / self.error, self.freedom) if self.error else 1.0

    @property
    def supported(self) -> bool:
        """Whether the two rows differ significantly."""
        return self.corrected < ALPHA


@dataclass(frozen=True)
class Comparison:
    """Rows with the same tasks and seeds, compared in one score: a column, or the mean of several.

    Attributes:
        rows: positions in the section's rows, best mean first; means: theirs, in the same order.
    """

    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    rows: tuple[int, ...]
    means: tuple[float, ...]
    differences: tuple[Difference, ...]

    def between(self, first: int, second: int) -> Difference:
        """The difference of two rows, in either order."""
        return next(d for d in self.differences if {d.first, d.second} == {first, second})

    @property
    def less_is_better(self) -> bool:
        """Whether the best mean is the lowest."""
        return all(column.less_is_better for column in self.columns)

    @property
    def tied(self) -> tuple[int, ...]:
        """The row with the best mean, and the rows that do not differ significantly from it."""
        best = self.rows[0]
        return (best, *(row for row in self.rows[1:] if not self.between(best, row).supported))

    @property
    def winner(self) -> int | None:
        """The row that is significantly better than every other; None where there is no such row."""
        return self.tied[0] if len(self.tied) == 1 else None


def compare(section: Section, pairs: Sequence[tuple[int, int]] | None = None) -> list[Comparison]:
    """The comparisons that a section allows: between rows with the same tasks and at least three common seeds.

    Args:
        pairs: positions of the rows whose differences are wanted, first minus second; None: of each two, the one with
            the better mean first.
    """
    question = compare, None if pairs is None else tuple(pairs)
    if question not in section.known:
        section.known[question] = _compared(section, pairs)
    return section.known[question]


def _compared(section: Section, pairs: Sequence[tuple[int, int]] | None) -> list[Comparison]:
    groups: dict[frozenset, list[int]] = {}
    for number, row in enumerate(section.rows):
        cells = {
            key: cell
            for key, cell in row.cells.items()
            if len(cell.runs) >= FEWEST and not cell.fault() and not cell.column.alternative
        }
        if cells:
            groups.setdefault(frozenset((key, _seeds(cell)) for key, cell in cells.items()), []).append(number)
    found = []
    for group, rows in groups.items():
        own = None if pairs is None else [pair for pair in pairs if set(pair) <= set(rows)]
        rows = rows if own is None else [row for row in rows if any(row in pair for pair in own)]
        if len(rows) < 2:
            continue
        there = {key for key, _ in group}
        columns = tuple(column for column in section.benchmark.columns if column.key in there)
        for part in [columns] if section.benchmark.average else [(column,) for column in columns]:
            if comparison := _comparison(section.rows, rows, part, own):
                found.append(comparison)
    return found


def _seeds(cell: Cell) -> tuple[int, ...]:
    return tuple(run.seed for run in cell.runs)


def _comparison(
    all_rows: Sequence[Row],
    rows: Sequence[int],
    columns: tuple[Column, ...],
    wanted: Sequence[tuple[int, int]] | None = None,
) -> Comparison | None:
    values = {
        row: {
            c.key: dict(zip(_seeds(cell), cell.values(), strict=True))
            for c in columns
            for cell in [_cell(all_rows, row, c)]
        }
        for row in rows
    }
    blocks: dict[str, list[Column]] = {}
    for column in columns:
        runs = [run for row in rows for run in all_rows[row].cells[column.key].runs]
        start = next((run.init_from["task"] for run in runs if run.init_from), column.task)
        blocks.setdefault(start if len(columns) > 1 else column.key, []).append(column)
    seeds = {
        name: sorted(set.intersection(*(set(values[rows[0]][c.key]) for c in block))) for name, block in blocks.items()
    }
    if any(len(found) < FEWEST for found in seeds.values()):
        return None
    means = {row: statistics.fmean(statistics.fmean(v.values()) for v in values[row].values()) for row in rows}
    up = 1 if all(column.less_is_better for column in columns) else -1
    order = sorted(rows, key=lambda row: up * means[row])
    gaps = {c.key: gap(v for row in rows for v in values[row][c.key].values()) for c in columns}
    weights = {name: len(block) / len(columns) for name, block in blocks.items()}
    floors = {
        name: sum(rounding(gaps[c.key]) for c in block) / len(block) ** 2 / len(seeds[name])
        for name, block in blocks.items()
    }
    differences = []
    for first, second in itertools.combinations(order, 2) if wanted is None else wanted:
        pairs = {
            name: [
                statistics.fmean(values[first][c.key][seed] - values[second][c.key][seed] for c in block)
                for seed in seeds[name]
            ]
            for name, block in blocks.items()
        }
        differences.append(difference(first, second, pairs, weights, floors))
    every = sorted({seed for found in seeds.values() for seed in found})
    means = tuple(means[row] for row in order)
    return Comparison(columns, tuple(every), tuple(order), means, tuple(judged(differences, len(rows), seeds)))


def judged(differences: Sequence[Difference], rows: int, seeds: Mapping[str, Sequence[int]]) -> list[Difference]:
    """The differences with moderated errors and Holm's correction.

    Args:
        rows: that are compared; seeds: of each block.
    """
    independent = min(len(differences), rows - 1)
    return holm(moderated(differences, independent * sum(len(each) - 1 for each in seeds.values())))


def _cell(rows: Sequence[Row], row: int, column: Column) -> Cell:
    return rows[row].cells[column.key]


def difference(
    first: int,
    second: int,
    pairs: Mapping[str, Sequence[float]],
    weights: Mapping[str, float],
    floors: Mapping[str, float] | None = None,
) -> Difference:
    """Student's t on the weighted mean of the blocks' mean differences, its error from the spread within blocks.

    Args:
        floors: the least variance of a block's mean difference.
    """
    mean = sum(weights[name] * statistics.fmean(values) for name, values in pairs.items())
    own = {name: statistics.variance(values) / len(values) for name, values in pairs.items()}
    parts = {name: weights[name] ** 2 * max(own[name], (floors or {}).get(name, 0.0)) for name in pairs}
    variance = sum(parts.values())
    if not variance > 1e-18:  # the same difference with every seed: there is no spread to judge by
        return Difference(first, second, mean, 0.0, math.nan)
    freedom = variance**2 / sum(part**2 / (len(pairs[name]) - 1) for name, part in parts.items())
    return Difference(first, second, mean, math.sqrt(variance), freedom)


def holm(differences: Sequence[Difference], alpha: float = ALPHA) -> list[Difference]:
    """The differences with p corrected by Holm's step-down method, and intervals that agree with it, in their order."""
    order = sorted(range(len(differences)), key=lambda k: differences[k].p)
    corrected, level, stopped = 0.0, alpha, False
    result: dict[int, Difference] = {}
    for step, k in enumerate(order):
        item = differences[k]
        corrected = max(corrected, min(1.0, (len(order) - step) * item.p))
        if not stopped:
            level, stopped = alpha / (len(order) - step), corrected >= alpha
        if item.error:
            half = quantile(level, item.freedom) * item.error
            item = replace(item, low=item.mean - half, high=item.mean + half)
        result[k] = replace(item, corrected=corrected)
    return [result[k] for k in range(len(differences))]


# ---- Student's t ------------------------------------------------------------------------------------------------


def two_sided(t: float, freedom: float) -> float:
    """P(|T| > |t|) of Student's t: the regularised incomplete beta function at freedom / (freedom + t^2)."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@functools.lru_cache(maxsize=4096)  # most pairs of a comparison share level and degrees of freedom
def quantile(alpha: float, freedom: float) -> float:
    """The t that |T| exceeds with probability `alpha`: Newton's method, which comes from below as P is convex there."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    t, step = 0.0, 1.0
    while step > 1e-12 * t:
        density = scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
        step = (two_sided(t, freedom) - alpha) / (2 * density)
        t += step
    return t


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) by its continued fraction (Abramowitz and Stegun, 26.5.8), from the side where it converges fast."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    value = 1.0  # from the last term of the fraction to the first, of as many as change a digit
    for m in range(24 + int(2 * math.sqrt(max(a, b))), 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        value = 1 + odd / (1 + even / value)
    return front / (a * value)
