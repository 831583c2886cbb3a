"""What is trained, on which data, and how it is measured.

    from modules import load_run, train
    result = train("lora", task="rte", r=8)
    model, tokenizer = load_run(result)

The names here are looked up when they are asked for: importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.api.results import Results as Results
    from modules.api.train import train as train
    from modules.inference.load import load_run as load_run
    from modules.inference.predict import predict as predict
    from modules.runs.results import RunResult as RunResult

_MODULES = {
    "load_run": "inference.load",
    "predict": "inference.predict",
    "Results": "api.results",
    "RunResult": "runs.results",
    "train": "api.train",
}
__all__ = ["Results", "RunResult", "load_run", "predict", "train"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"modules.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'modules' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
