"""Scores the outputs that lie beside finished runs anew: METEOR, say, where training ran without Java."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from modules.benchmarks.e2e import E2E
from modules.benchmarks.e2e.data import grouped
from modules.benchmarks.e2e.tasks import TASK
from modules.data.source import Source
from modules.runs.results import ResultStore, RunResult
from modules.scores import FORMULAS, files, score, versions
from variants.errors import UserError

CHECKED = ("BLEU", "NIST")
"""Scores that do not depend on what is installed: they tell whether outputs are those that a result is of."""


def rescore(results_dir: str | Path, data_dir: str | None = None, force: bool = False) -> Iterator[tuple[str, bool]]:
    """For each run: a line that says what it scores, or why it is left as it is, and whether it was scored.

    Every score that can be had here takes the place of the one in the result file, with the versions of the scorers;
    a score that cannot be had here stays as it is. Each file is replaced whole, before its line comes.

    Args:
        data_dir: of the test set, for runs whose `test_references.txt` is not there.
        force: also runs that lack no score.

    Raises:
        UserError: there is no finished run with test scores under `results_dir`, or the disk is full.
    """
    store = ResultStore(results_dir)
    results = [result for result in store.all() if result.benchmark == E2E.name and result.test]
    if not results:
        raise UserError(f"there are no finished E2E runs under {results_dir}")
    source = E2E.open_source("folder", data_dir) if data_dir else None
    for result in results:
        if not force and all(result.test.get(name) is not None for name in FORMULAS):
            continue
        title = f"{result.id} {result.variant} seed {result.seed}"
        try:
            scored = completed(result, *_read(store.runs / result.id, result, source))
        except UserError as error:
            yield f"{title} is left as it is: {error}", False
            continue
        store.write(scored)
        values = {name: scored.test.get(name) for name in FORMULAS}
        shown = ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in values.items())
        yield f"{title}: {shown}" + (f" ({result.fault}: no score)" if result.fault else ""), True


def _read(folder: Path, result: RunResult, source: Source | None) -> tuple[list[str], list[list[str]]]:
    """(outputs, groups of references) of a run."""
    outputs, beside = folder / "test.txt", folder / "test_references.txt"
    if beside.is_file():
        return files.read(beside, outputs)
    if source is None and result.data["source"] == "embedded":
        source = E2E.open_source("embedded", None)
    if source is None:
        raise UserError(f"{beside} is not there: name the data with --data_dir")
    if source.hash(TASK) != result.data["hash"]:
        raise UserError(f"it was scored on other data than those in {source.name}")
    return files.read_lines(outputs), list(grouped(source.load(TASK)["test"]).values())


def completed(result: RunResult, outputs: list[str], references: list[list[str]]) -> RunResult:
    """`result` with the scores of its outputs. Raises UserError where they are not its outputs."""
    values, missing = score(outputs, references)
    for name in CHECKED:
        before = result.test.get(name)
        if before is not None and not math.isclose(before, values[name], rel_tol=1e-6, abs_tol=1e-9):
            raise UserError(f"its outputs have {name} {values[name]:.4f} and its result {before:.4f}: not the same run")
    test = result.test | {name: value for name, value in values.items() if value is not None}
    lacking = {name: lack for name, lack in missing.items() if test.get(name) is None}
    return replace(result, test=test | {"missing": lacking, "scorers": versions()})
