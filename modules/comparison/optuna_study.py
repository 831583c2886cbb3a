"""`search: optuna`: each row is a study, and each trial the ordinary runs of its point.

The studies lie in one journal file of the tuning folder, which several commands and machines may share. A trial counts
when the result files of its runs are there. One whose command was stopped is taken up by the next command; one that
another command is at is left to it, and waited for where nothing else is left to do. A study is named by what decides
its scores: a changed file begins a new one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from modules.comparison.comparison import Comparison, Row
from modules.comparison.progress import LOOK, told
from modules.comparison.trials import Trial, Trials, scored, trial
from modules.launch.claims import alone, holder
from modules.launch.pool import default_jobs
from modules.launch.progress_line import say
from modules.runs.results import run_id
from variants.errors import UserError

if TYPE_CHECKING:
    from types import ModuleType

    from optuna import Study
    from optuna.storages import JournalStorage

JOURNAL = "optuna.journal"
"""Optuna's file in the tuning folder."""


def search(comparison: Comparison, rows: list[Row]) -> tuple[Trials, int]:
    """(the trials of each row, exit code): ask, carry out, tell, until each row has its number of trials."""
    studies = {row.name: open_study(comparison, row) for row in rows}
    at_once = comparison.jobs or default_jobs(comparison.content.for_all, comparison.stack)
    each_round = max(1, -(-at_once // len(rows)))
    while True:
        with alone(comparison.tuning / "optuna"):
            asked = {row.name: _ask(comparison, row, studies[row.name], each_round) for row in rows}
        trials = {row.name: list(known(comparison, row, studies[row.name])) for row in rows}
        comparison.say_rule({name: [run for each in own for run in each.runs] for name, own in trials.items()})
        runs = [run for own in asked.values() for each in own for run in each.runs]
        total = comparison.content.tune.trials * len(rows)
        if not runs:
            left = [each for own in trials.values() for each in own if not each.done]
            if not left:
                return trials, 0
            with told(comparison, trials, total):
                _wait_for(comparison, left)
            continue
        with told(comparison, trials, total):
            code = comparison.carry_out(runs, comparison.tuning)
        for row in rows:
            _tell(comparison, row, studies[row.name])
        failed = any(not scored(comparison, each).done for own in asked.values() for each in own if not _held(each))
        if code == 130 or failed:
            return {row.name: known(comparison, row, studies[row.name]) for row in rows}, code or 1


def open_study(comparison: Comparison, row: Row) -> Study:
    """The study of a row, which begins where there is none. Raises UserError where Optuna is not installed."""
    optuna = _optuna()
    comparison.tuning.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=_journal(comparison),
        study_name=_name(comparison, row),
        direction="maximize",
        load_if_exists=True,
    )


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError:
        raise UserError("search: optuna needs Optuna: pip install 'lora-variants[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _journal(comparison: Comparison) -> JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(comparison.tuning / JOURNAL)))


def _name(comparison: Comparison, row: Row) -> str:
    example = trial(comparison, row, {each.key: each.examples[0] for each in row.space})
    space = [[each.key, *each.values, each.low, each.high, each.step, each.log] for each in row.space]
    decides = {"space": space, "runs": [run.id for run in example.runs], "metric": comparison.content.tune.metric}
    return f"{row.name}-{run_id(decides)}"


def begun(comparison: Comparison, row: Row) -> list[Trial]:
    """The trials that Optuna has asked for, of a study that may not have begun; nothing is written."""
    optuna = _optuna()
    if not (comparison.tuning / JOURNAL).is_file():
        return []
    try:
        study = optuna.load_study(study_name=_name(comparison, row), storage=_journal(comparison))
    except KeyError:  # Optuna's word for a study that the journal does not have
        return []
    return known(comparison, row, study)


def known(comparison: Comparison, row: Row, study: Study) -> list[Trial]:
    """The trials that Optuna has asked for so far."""
    skip = _optuna().trial.TrialState.FAIL
    whole = [each for each in study.get_trials(deepcopy=False) if len(each.params) == len(row.space)]
    return [trial(comparison, row, _point(row, each)) for each in whole if each.state != skip]


def _point(row: Row, each) -> dict:
    return {dimension.key: dimension.suggest(each) for dimension in row.space}


def _tell(comparison: Comparison, row: Row, study: Study) -> None:
    """Tell the scores of trials whose runs are done; one that has none (it diverged, or was truncated) is pruned, which
    counts as worse than all others."""
    import optuna

    state = optuna.trial.TrialState
    for each in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        if len(each.params) < len(row.space):
            continue
        found = trial(comparison, row, _point(row, each))
        if found.score is not None:
            study.tell(each.number, found.score, skip_if_finished=True)
        elif found.done:
            study.tell(each.number, state=state.PRUNED, skip_if_finished=True)


def _ask(comparison: Comparison, row: Row, study: Study, most: int) -> list[Trial]:
    """At most so many trials to carry out now: those that a stopped command has left, then new ones."""
    import optuna

    state, rule = optuna.trial.TrialState, comparison.content.tune
    _tell(comparison, row, study)
    found = []
    for each in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        asked = optuna.trial.Trial(study, each._trial_id)
        if len(each.params) < len(row.space):  # its command was stopped as it asked
            _sampler(study, rule.trained[0] + each.number)
        left = trial(comparison, row, _point(row, asked))
        if not left.done and not _held(left):
            found.append(left)
    count = len(study.get_trials(deepcopy=False, states=(state.RUNNING, state.COMPLETE, state.PRUNED)))
    for _ in range(min(most - len(found), rule.trials - count)):
        _sampler(study, rule.trained[0] + len(study.get_trials(deepcopy=False)))
        asked = study.ask()
        found.append(trial(comparison, row, _point(row, asked)))
    return found[:most]


def _sampler(study: Study, seed: int) -> None:
    """One for each trial: commands that share a study would otherwise draw the same, and one started again too."""
    import optuna

    study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)


def _wait_for(comparison: Comparison, trials: list[Trial]) -> None:
    """Return when one of the trials, which other commands are at, is done, or when nobody is at it any more."""
    who = next((words for each in trials for run in each.runs if (words := holder(run.folder))), None)
    if who:
        count = "a trial" if len(trials) == 1 else f"{len(trials)} trials"
        say(f"waiting for {count} that {who} is at")
    while all(_held(each) and not scored(comparison, each).done for each in trials):
        time.sleep(LOOK)


def _held(each: Trial) -> bool:
    """Whether another command is at a run of the trial."""
    return any(holder(run.folder) for run in each.runs)
