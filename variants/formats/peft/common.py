"""What PEFT's files of all methods have in common."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from variants.sites.site import Site

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the model's own names."""

_LORA = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
NAMES = {
    "lora": _LORA,
    "dora": _LORA | {"magnitude": "lora_magnitude_vector"},
    "adalora": {"lora_A": "lora_A", "lora_B": "lora_B", "lora_E": "lora_E"},
    "vera": {"d": "vera_lambda_d", "b": "vera_lambda_b"},
}
"""A layer's tensors by our name -> by PEFT's; of the methods in `forms`, that table says it."""


@dataclass
class Map:
    """One of the model's modules as PEFT adapts it: always the whole of it."""

    site: Site
    tensors: dict[str, Tensor]  # as in our file: by our names, pruned triplets left out
    r: int
    alpha: float


def _number(x: float) -> float | int:
    return int(x) if x == int(x) else x
