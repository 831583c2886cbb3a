"""A recorded scaling benchmark in small."""

from typing import Any


def recorded() -> dict[str, Any]:
    """Two GPUs, two rounds, roberta-base: 1.93 times the throughput; PEFT's graphs are its best way."""
    run = {"row_tokens": 53.0, "tokens": 1700, "peak_mb": 900.0}
    runs = {
        "1x32": {"gpus": 1, "rows": 32, "rounds_ms": [4.0, 8.0]} | run,
        "2x32": {"gpus": 2, "rows": 32, "rounds_ms": [4.2, 8.2]} | run,
        "2x16": {"gpus": 2, "rows": 16, "rounds_ms": [3.0, 4.8]} | run,
        "1x4": {"gpus": 1, "rows": 4, "rounds_ms": [2.0]} | run,
    }
    place = {"gpus": 2, "rows": 32}
    peft = {
        "eager": {"epoch_ms": [90.0, 40.0, 41.0, 39.0]} | place,
        "compiled bf16": {"failed": "no a | b"} | place,
        "graphs bf16": {"epoch_ms": [900.0, 9.0, 9.0, 9.0]} | place,
    }
    work = {"title": "t", "train_rows": 3668, "bytes": 3_500_000, "runs": runs, "peft": peft}
    return {
        "device": "cuda",
        "gpus": 2,
        "precision": "bf16",
        "network": {"gbps": 400.0, "us": 5.0},
        "workloads": {"roberta-base": work},
        "all_reduce": {"2": {"bytes": [500_000, 1_000_000, 10_000_000], "ms": [0.03, 0.035, 0.12]}},
    }
