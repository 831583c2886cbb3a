"""The order of planned runs."""

from modules.benchmarks.glue import GLUE
from modules.experiments.plan import make_plan
from modules.experiments.wishes import Wishes
from variants.registry import resolve


def test_the_longest_runs_come_first():
    wishes = Wishes(benchmark=GLUE, variant="lora", preset="embedded", tasks=["rte", "cola", "mnli"])
    assert [run.task for run in make_plan(wishes, resolve("lora")).runs] == ["mnli", "cola", "rte"]
