"""What runs have in common: which settings must be equal within a row, and what a row is called."""

from collections.abc import Iterable, Mapping

from modules.benchmarks.base import Benchmark
from modules.runs.labels import as_text, in_words, label_words, natural, plain
from modules.runs.results import RunResult, run_id

Settings = dict[tuple[str, str], str]
"""(part of the result, name) -> the value as canonical JSON, so that equal means equal."""

_FIRST = ("full", "head", "bitfit", "lora", "adalora", "dora", "vera")  # order of rows; others follow by name


def settings_of(run: RunResult, by_id: Mapping[str, RunResult]) -> Settings:
    """All that must be equal within a cell, seed aside; the settings of the run that it started from included."""
    start = by_id.get(run.init_from["id"]) if run.init_from else None
    parts = {
        "option": run.variant_config,
        "training": {key: value for key, value in run.training.items() if key not in ("seed", "seeds")},
        "data": {"hash": run.data["hash"]},
        "trainer": run.trainer,
        "start": {
            "init_from": run.init_from and run.init_from["task"],
            "init_from_settings": start and run_id({"/".join(k): v for k, v in settings_of(start, by_id).items()}),
        },
        "score": {"metric": run.metric, "code": run.code},
    }
    return {(part, name): as_text(value) for part, values in parts.items() for name, value in values.items()}


def differing(runs: list[RunResult], settings: Mapping[str, Settings], benchmark: Benchmark) -> list[tuple[str, str]]:
    """The settings that take two values within one task: what differs between tasks only may be the recipe's."""
    keys = sorted({key for run in runs for key in settings[run.id]})
    seen: dict[tuple, set[str]] = {}
    for run in runs:
        for key in keys:
            seen.setdefault((key, run.task), set()).add(settings[run.id].get(key, "null"))
    return [key for key in keys if any(len(seen[key, task]) > 1 for task in benchmark.tasks if (key, task) in seen)]


def label_of(runs: list[RunResult], differing: Mapping[tuple[str, str], str]) -> str:
    """The label of a run (`modules.runs.labels`), and what tells the row from others."""
    wanted = {(run.budget or {}).get("wanted") for run in runs}
    words = label_words([run.variant_config for run in runs], runs[0].overrides, wanted)
    budget = {name: words.pop(name) for name in ("budget",) if name in words}
    return in_words(words | {name: plain(value) for (_, name), value in differing.items()} | budget)


def row_order(variant: str, protocol: str, label: str, runs: Iterable[RunResult]) -> tuple:
    """The place of a row among others."""
    known = _FIRST.index(variant) if variant in _FIRST else len(_FIRST)
    return known, variant, protocol, natural(label), min(run.id for run in runs)
