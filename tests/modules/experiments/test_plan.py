"""The order of planned runs."""

from modules.experiments.plan import Wishes, make_plan
from variants.registry import resolve


def test_the_longest_runs_come_first():
    wishes = Wishes(variant="lora", preset="embedded", tasks=["rte", "cola", "mnli"])
    assert [run.task for run in make_plan(wishes, resolve("lora")).runs] == ["mnli", "cola", "rte"]
