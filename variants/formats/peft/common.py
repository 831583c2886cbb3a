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
    "prefix_tuning": {},  # one tensor for all layers (`prefix`)
}
"""A layer's tensors by our name -> by PEFT's; of the methods in `forms`, that table says it."""


@dataclass
class Map:
    """One of the model's modules as PEFT adapts it: always the whole of it."""

    site: Site
    tensors: dict[str, Tensor]  # as in our file: by our names, pruned triplets left out
    r: int
    alpha: float


def shaped(site: Site, own: str, tensor: Tensor) -> Tensor:
    """A layer's tensor as PEFT has it, by our name: A of a convolution is a kernel of its size, B one of one pixel."""
    if own == "lora_E":
        return tensor[:, None]
    if (window := site.window) is None:
        return tensor
    if own == "magnitude":
        return window.pixels(tensor[None])
    return window.kernels(tensor) if own == "lora_A" else window.pixels(tensor)


def flat(own: str, tensor: Tensor) -> Tensor:
    """A tensor of PEFT's as the layer has it: what :func:`shaped` does, undone."""
    if own in ("lora_E", "magnitude"):
        return tensor.flatten()
    factor = own in ("lora_A", "lora_B") and tensor.ndim > 2
    return tensor.flatten(1) if factor and (own == "lora_A" or set(tensor.shape[2:]) == {1}) else tensor


def number(x: float) -> float | int:
    """An integer where it is one: so PEFT writes it."""
    return int(x) if x == int(x) else x
