"""Trials that are runs of the comparison too, or are trained as they are: what is done is not done again.

Where a tuning run has all the settings of a run of the comparison, seed included, the two have one id. Trials lie in
`RESULTS_DIR/tuning` and the comparison's runs in `RESULTS_DIR`, whose table would otherwise have a row for each rate
that was tried. So the run of a chosen setting is taken over from one folder to the other, as links to the same files.

Where the two differ in what is scored after training alone (a trial of E2E leaves the test set alone), the run is told
which trial it was trained as: it takes over the adapters and the record of the training, and is scored.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from modules.benchmarks.base import benchmark
from modules.runs.config import RunConfig
from modules.runs.results import ADAPTERS, ResultStore
from variants.atomic import write_atomic


def take_over(id: str, source: ResultStore, target: ResultStore) -> bool:
    """Give `target` a run that `source` has and it lacks: the run's folder, then its result file; whether it did."""
    if target.done(id) or not source.done(id):
        return False
    folder = source.runs / id
    if folder.is_dir():
        shutil.copytree(folder, target.runs / id, copy_function=_linked, dirs_exist_ok=True)
    write_atomic(target.path(id), source.path(id).read_text(encoding="utf-8"))
    return True


def give_back(ids: Collection[str], trials: ResultStore, store: ResultStore) -> None:
    """Take runs that are trials out of `store`, such as those of a rate that is no longer the chosen one."""
    for id in ids:
        if trials.done(id) and store.path(id).is_file():
            store.path(id).unlink(missing_ok=True)
            shutil.rmtree(store.runs / id, ignore_errors=True)


def tell_trained(runs: Iterable[RunConfig], trials: Iterable[RunConfig]) -> None:
    """Tell each run the trial that it is trained as (`RunConfig.trained_as`), done or not; None where there is none, or
    where it is done and its adapters were not kept."""
    known = {_training(trial): trial for trial in trials}
    for run in runs:
        trial = known.get(_training(run))
        if trial and ResultStore(trial.results_dir).done(trial.id) and not _kept(trial.folder):
            trial = None
        run.trained_as = Path(os.path.relpath(trial.folder, run.results_dir)).as_posix() if trial else None


def _kept(folder: Path) -> bool:
    """Whether the adapters of a run are there."""
    from variants.formats.native import TENSORS

    return all((folder / which / TENSORS).is_file() for which in ADAPTERS)


def _training(run: RunConfig) -> str:
    """What names the training of a run: two that share it learn the same."""
    return replace(run, training=benchmark(run.benchmark).settings.of_training(run.training)).id


def _linked(source: str, target: str) -> None:
    """A hard link, or a copy where the disk has none; files of adapters are replaced whole and never written to."""
    if Path(target).exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
