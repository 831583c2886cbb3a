"""``Results``: several runs as a list, with their table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from modules.runs.results import RunResult
from modules.runs.score_form import printed

if TYPE_CHECKING:
    import pandas as pd


class Results(list[RunResult]):
    """Runs in the order in which they were asked for; lists of them add up: ``train(...) + train(...)``."""

    def to_frame(self) -> pd.DataFrame:
        """A row for each run: what names it, the settings that were given by hand, its score (a fraction; empty where
        it diverged or was truncated), the epoch it is of, and what it cost."""
        import pandas as pd

        return pd.DataFrame([_row(run) for run in self])

    def epochs(self) -> pd.DataFrame:
        """A row for each epoch of each run, as `RunResult.to_frame` has them: for curves."""
        import pandas as pd

        return pd.concat([run.to_frame() for run in self], ignore_index=True) if self else pd.DataFrame()

    def __add__(self, other: Iterable[RunResult]) -> Results:  # type: ignore[override]
        return Results([*self, *other])

    def __repr__(self) -> str:
        """A line for each variant and task: the median over its seeds."""
        return "\n".join([f"Results of {len(self)} run{'' if len(self) == 1 else 's'}", *self._lines()])

    def _repr_html_(self) -> str:
        """The table, in a notebook."""
        return self.to_frame().to_html(index=False, float_format="{:.4g}".format, na_rep="")

    def _lines(self) -> Iterator[str]:
        groups: dict[tuple[str, str, str], list[RunResult]] = {}
        for run in self:
            given = ", ".join(f"{name}={value}" for name, value in sorted(run.overrides.items()))
            groups.setdefault((run.task, run.variant, given), []).append(run)
        for (task, variant, given), runs in groups.items():
            words = f"  {task} {variant}{f' ({given})' if given else ''}: {runs[0].metric} "
            scores = [run.score for run in runs if run.score is not None]
            if len(scores) < len(runs):
                bad = sum(run.diverged for run in runs)
                yield words + (f"diverged {bad}/{len(runs)}" if bad else "truncated")
            else:
                metric = runs[0].metric
                spread = f" ±{printed(metric, statistics.stdev(scores))}" if len(scores) > 1 else ""
                yield words + f"{printed(metric, statistics.median(scores))}{spread}, {_seeds(runs)}"


def _seeds(runs: list[RunResult]) -> str:
    numbers = ",".join(str(run.seed) for run in runs)
    return f"seed{'s' if len(runs) > 1 else ''} {numbers}"


def _row(run: RunResult) -> dict[str, Any]:
    names = {name: getattr(run, name) for name in ("id", "benchmark", "task", "variant", "seed")}
    given = {name: value for name, value in run.overrides.items() if name not in names}
    return (
        names
        | given
        | {
            "metric": run.metric,
            "score": math.nan if run.score is None else run.score,
            "epoch": run.best["epoch"],
            "trained": run.parameters["adapter"],
            "step_ms": run.cost.get("step_ms"),
            "peak_memory_mb": run.cost.get("peak_memory_mb"),
            "wall_s": run.cost.get("wall_s"),
            "diverged": run.diverged,
            "truncated": run.truncated,
        }
    )
