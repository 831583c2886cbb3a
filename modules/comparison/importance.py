"""Which dimensions of a search mattered, as shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

from modules.comparison.space import Dimension, size, text
from modules.comparison.trials import Trial

FEWEST = 4
"""Trials that importances need."""


@dataclass(frozen=True)
class Importance:
    """Shares by the dimension's key, the largest first, and in words what they are shares of; no shares: why."""

    shares: dict[str, float]
    words: str


def importance(space: Sequence[Dimension], trials: Sequence[Trial]) -> Importance:
    """The importance of each dimension.

    A whole grid is a balanced experiment: the share of a dimension is its main effect, the variance of the means of its
    values over the variance of all scores; what is left of 100% is interaction. Elsewhere it is PED-ANOVA (Watanabe et
    al., arXiv 2304.10255), by Optuna: how far the better half of the trials narrows each dimension. Trials without a
    score are left out, and then no grid is whole.
    """
    good = [each for each in trials if each.score is not None]
    scores = [each.score for each in good]
    if len(space) == 1:
        return Importance({}, "there is one dimension alone")
    if len(good) < FEWEST or max(scores) == min(scores):
        return Importance({}, f"fewer than {FEWEST} different scores")
    whole = len(good) == size(space) == len({repr(each.point) for each in good})
    return _main_effects(space, good) if whole else _ped_anova(space, good)


def _main_effects(space: Sequence[Dimension], trials: Sequence[Trial]) -> Importance:
    total, shares = pvariance([each.score for each in trials]), {}
    for dimension in space:
        means = [
            fmean(each.score for each in trials if each.point[dimension.key] == value) for value in dimension.values
        ]
        shares[dimension.key] = pvariance(means) / total
    rest = f"main effects: shares of the variance over the whole grid; {1 - sum(shares.values()):.0%} are interactions"
    return _sorted(shares, rest)


def _ped_anova(space: Sequence[Dimension], trials: Sequence[Trial]) -> Importance:
    try:
        import optuna
    except ImportError:
        return Importance({}, "not a whole grid, and then it needs Optuna: pip install 'lora-variants[sweep]'")
    from optuna import distributions as d

    kinds = {}
    for each in space:
        if each.values:
            kinds[each.key] = d.CategoricalDistribution([text(value) for value in each.values])
        elif each.whole:
            kinds[each.key] = d.IntDistribution(each.low, each.high, log=each.log, step=each.step or 1)
        else:
            kinds[each.key] = d.FloatDistribution(each.low, each.high, log=each.log, step=each.step or None)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for each in trials:
        params = {k.key: text(each.point[k.key]) if k.values else each.point[k.key] for k in space}
        study.add_trial(optuna.create_trial(params=params, distributions=kinds, value=each.score))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(kinds))
    return _sorted(dict(shares), "PED-ANOVA of Optuna: how far the better half of the trials narrows each")


def _sorted(shares: dict[str, float], words: str) -> Importance:
    return Importance(dict(sorted(shares.items(), key=lambda item: -item[1])), words)
