"""What image models have learnt against how far they have drifted: a point for each row, seed and strength."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modules.reports.plots.layout import add_legend, grid_of, new_figure
from modules.reports.plots.style import styles
from modules.reports.tables.section import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modules.runs.results import RunResult

DRIFT = "neg_drift"
LEARNT = {
    "taught": "share of pictures that show what is new",
    "nearer": "share of pictures in the new hand",
    "dino": "DINO",
    "clip_i": "CLIP-I",
}
"""Scores of what was learnt; of those that a task has, the first is drawn."""


def has_drift(section: Section) -> list[str]:
    """The tasks that have both scores."""
    tasks = [task for row in section.rows for task, runs in row.by_task.items() if any(map(points, runs))]
    return list(dict.fromkeys(tasks))


def points(run: RunResult) -> list[tuple[float, float, float]]:
    """(strength, drift, what was learnt) of a run: at strength 1, and at others that were scored."""
    test: dict[str, Any] = run.test or {}
    learnt = next((score for score in LEARNT if score in test), None)
    if learnt is None or DRIFT not in test or run.fault:
        return []
    strengths = [name.removeprefix(f"{DRIFT}_at_") for name in test if name.startswith(f"{DRIFT}_at_")]
    others = [(float(text), -test[f"{DRIFT}_at_{text}"], test[f"{learnt}_at_{text}"]) for text in strengths]
    return sorted([(1.0, -test[DRIFT], test[learnt]), *others])


def drift(section: Section) -> Figure:
    """A facet for each task; the strengths of one run are joined, and a larger mark is a greater strength."""
    tasks = has_drift(section)
    rows, columns = grid_of(len(tasks))
    figure, axes = new_figure(section, "Learnt against drift", rows, columns, (4.2, 3.4))
    for ax, task in zip(axes, tasks, strict=False):
        for row, style in zip(section.rows, styles(section), strict=True):
            for run in row.by_task.get(task, ()):
                if not (found := points(run)):
                    continue
                strengths, x, y = zip(*found, strict=True)
                ax.plot(x, y, "-", color=style.colour, lw=0.8, alpha=0.5)
                for strength, *place in zip(strengths, x, y, strict=True):
                    ax.plot(*place, ls="none", ms=3 + 3 * strength, label=style.label, **style.drawn())
        learnt = next(score for score in LEARNT if any(score in (run.test or {}) for run in _runs(section, task)))
        ax.set_xlabel("drift on prompts without the new word")
        ax.set_ylabel(LEARNT[learnt])
        ax.set_title(section.benchmark.tasks[task].title)
    for ax in axes[len(tasks) :]:
        ax.remove()
    add_legend(figure, axes[: len(tasks)], "a mark for each seed and strength; up and to the left is best")
    return figure


def _runs(section: Section, task: str) -> list[RunResult]:
    return [run for row in section.rows for run in row.by_task.get(task, ())]
