"""What a search found: each row's trials, the best first, and which dimensions mattered."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from modules.comparison.comparison import Comparison, Row
from modules.comparison.importance import importance
from modules.comparison.search_plot import draw
from modules.comparison.space import Point, text, words
from modules.comparison.trials import Trial, Trials, best, faults, score_text
from modules.reports.formats.text_table import text_table
from modules.reports.plots.image_files import FORMATS, saved_figure
from variants.atomic import write_atomic

SHOWN = 20
"""Most trials of a row on the screen."""
NOTE = (
    "The best of many trials is picked by its score, which therefore flatters it: the seeds' runs, not these, say how "
    "good it is."
)


def show(comparison: Comparison, rows: Sequence[Row], trials: Trials) -> None:
    """Print the trials of each row, and leave tables and a picture in the results folder."""
    if not trials:
        return
    print("\n".join(screen(comparison, rows, trials)), flush=True)
    rows = [row for row in rows if row.name in trials]
    folder = comparison.results_dir / "tables"
    write_atomic(folder / "search.md", markdown(comparison, rows, trials))
    write_atomic(folder / "search.csv", table_csv(comparison, rows, trials))
    written = [folder / "search.md", folder / "search.csv"]
    # the rates of a comparison have a picture of their own (modules/reports/plots/rates.py)
    drawn = [row for row in rows if not row.seeds or [each.key for each in row.space] != ["lr"]]
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("the search has no picture: pip install 'lora-variants[plots]'", flush=True)
        drawn = []
    if drawn:
        with saved_figure(folder / "search", 8, 2.6 * len(drawn)) as figure:
            draw(figure, comparison, drawn, trials)
        written += [folder / f"search.{kind}" for kind in FORMATS]
    print("search:", *written, flush=True)


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The best first; those without a score last."""
    return sorted(trials, key=lambda each: (each.score is None, -(each.score or 0.0)))


def unequal(rows: Sequence[Row], trials: Trials) -> list[str]:
    """A line where rows had different numbers of trials."""
    tried = {row.name: len(trials.get(row.name, [row])) for row in rows}
    if len(set(tried.values())) == 1:
        return []
    numbers = ", ".join(f"{name} {number}" for name, number in tried.items())
    return [f"not on equal terms: rows had different numbers of trials ({numbers}), and more make a row's best better"]


def screen(comparison: Comparison, every: Sequence[Row], trials: Trials) -> list[str]:
    """The lines for a terminal."""
    lines = []
    for row in (row for row in every if row.name in trials):
        own = ranked(trials[row.name])
        lines += ["", heading(comparison, row, own)]
        lines.append(text_table(_table(comparison, row, own)[: SHOWN + 1]))
        if len(own) > SHOWN:
            lines.append(f"and {len(own) - SHOWN} more, in search.csv")
        lines += remarks(comparison, row, own)
    return lines + unequal(every, trials)


def heading(comparison: Comparison, row: Row, trials: Sequence[Trial]) -> str:
    """What was tried, how, and what the score is."""
    rule, benchmark = comparison.content.tune, comparison.benchmark
    tasks = ", ".join(benchmark.tasks[task].title for task in rule.tasks)
    means = [what for what, many in (("tasks", rule.tasks), ("seeds", rule.trained)) if len(many) > 1]
    over = f", mean of the {' and '.join(means)}" if means else ""
    metric = rule.metric or " or ".join(dict.fromkeys(benchmark.tasks[task].column for task in rule.tasks))
    metric = metric or "score"  # of own data it is known with their labels
    what = "lowest dev loss" if metric == "loss" else f"best dev {metric}"
    done = sum(each.done for each in trials)
    left = faults(each for each in trials if each.done)
    seeds = ("seed " if len(rule.trained) == 1 else "seeds ") + ", ".join(map(str, rule.trained))
    line = f"{row.name}: {done} settings tried ({rule.search}) on {tasks}, {seeds}; score: {what}{over}"
    return f"{line}; without a score: {left}" if left else line


def remarks(comparison: Comparison, row: Row, trials: Sequence[Trial]) -> list[str]:
    """What mattered, and where the best lies at an end of what was tried."""
    found = importance(row.space, trials)
    shares = ", ".join(f"{key} {share:.0%}" for key, share in found.shares.items())
    lines = [f"what mattered: {shares} ({found.words})" if shares else f"what mattered: not known ({found.words})"]
    top = best(list(trials))
    for each in row.space if top else ():
        ends = [value for value in each.examples if type(value) in (int, float)]
        wide = len(ends) == len(each.examples) and len(each.values) != 2  # of two values each is at an end
        if wide and top.point[each.key] in (min(ends), max(ends)):
            lines.append(
                f"{each.key}={text(top.point[each.key])} is at the end of what was tried: better may lie beyond"
            )
    return lines


def _table(comparison: Comparison, row: Row, trials: Sequence[Trial]) -> list[list[str]]:
    """Header and a line per trial."""
    keys, top = [each.key for each in row.space], best(list(trials))
    lines = [["trial", "loss" if comparison.content.tune.metric == "loss" else "score", *keys]]
    for rank, each in enumerate(trials, 1):
        cells = [text(each.point[key]) for key in keys]
        lines.append(["best" if each is top else str(rank), score_text(each, comparison.content.tune.metric), *cells])
    return lines


def markdown(comparison: Comparison, rows: Sequence[Row], trials: Trials) -> str:
    """All trials of all rows."""
    parts = ["# Search", f"`{comparison.name}`. {NOTE}"]
    for row in rows:
        own = ranked(trials[row.name])
        head, *table = _table(comparison, row, own)
        lines = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *table)]
        parts += [f"## {row.name}", heading(comparison, row, own), "\n".join(lines)]
        parts += ["\n".join(f"- {line}" for line in remarks(comparison, row, own))]
    return "\n\n".join(parts) + "\n"


def table_csv(comparison: Comparison, rows: Sequence[Row], trials: Trials) -> str:
    """A line per trial; scores are fractions, and losses have the loss."""
    keys = list(dict.fromkeys(each.key for row in rows for each in row.space))
    out = io.StringIO()
    writer = csv.DictWriter(
        out, ["row", "rank", "best", "metric", "score", "fault", *keys, "runs"], lineterminator="\n"
    )
    writer.writeheader()
    metric = comparison.content.tune.metric
    for row in rows:
        own = ranked(trials[row.name])
        for rank, each in enumerate(own, 1):
            writer.writerow({
                "row": row.name, "rank": rank, "best": each is best(own), "metric": metric or "dev metric",
                "score": (-each.score if metric == "loss" else each.score) if each.score is not None else "",
                "fault": each.fault, "runs": " ".join(run.id for run in each.runs),
                **{key: text(value) for key, value in each.point.items()},
            })  # fmt: skip
    return out.getvalue()


def chosen_words(chosen: dict[str, Point]) -> str:
    """The chosen settings of all rows that had something to choose, in one line; "" where none had."""
    return "; ".join(f"{name} {words(point)}" for name, point in chosen.items() if point)
