"""Results as finished runs would leave them."""

import itertools

from modules.runs.results import RunResult

COLUMNS = dict(mnli="accuracy", cola="matthews", stsb="pearson")

ids = itertools.count()


def run(task="rte", score=0.7, seed=0, last=0.6, **changes) -> RunResult:
    """A result as a run would leave it; `changes` may reach into its parts as part__key=value."""
    metric = COLUMNS.get(task, "accuracy")
    dev = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
    content = dict(
        id=f"{next(ids):012x}",
        benchmark="glue",
        task=task,
        variant="lora",
        variant_config={"target": "attn-qv", "layers": "", "r": 8, "alpha": 16.0, "dropout": 0.0, "rslora": False},
        protocol="embedded",
        seed=seed,
        backbone={"source": "hub", "name": "roberta-base", "hash": "feedbeef" * 8},
        data={
            "source": "hub",
            "name": "nyu-mll/glue",
            "hash": f"h-{task}",
            "sizes": {"train": 90} | dict.fromkeys(dev, 10),
        },
        training={"lr": 5e-4, "batch_size": 32, "epochs": 8, "max_length": 64},
        metric=metric,
        epochs=[],
        best={"epoch": 3, metric: score},
        last={"epoch": 8, metric: last},
        parameters={"adapter": 294912, "head": 592130, "total": 124647170},
        cost={"step_ms": 12.0, "peak_memory_mb": 2000.0},
        environment={"device": "Some CPU", "devices": 1, "time": "2026-01-01T00:00:00+00:00"},
    )
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            content[part] = {**content[part], key: value}
        else:
            content[part] = value
    return RunResult(**content)
