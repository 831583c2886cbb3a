"""A language model of published sizes with random weights, quantised map by map on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from variants.quantisation import bitsandbytes_maps
from variants.schemes import SCHEMES
from variants.sites.architectures import output_embedding
from variants.sites.kinds import is_conv1d


def packed_model(
    config: dict[str, Any], scheme: str, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> nn.Module:
    """A causal language model whose linear maps are in few bits, all else in ``dtype``; frozen.

    It is built without memory, and one matrix at a time is drawn, quantised and freed: the dense model, 130 GB of 65
    billion parameters, is never there.

    Args:
        config: transformers' configuration, with its ``model_type``.
        scheme: one of `variants.schemes.SCHEMES`.
        seed: of the weights, normal with a standard deviation of 0.02.
    """
    import transformers

    options = {k: v for k, v in config.items() if k != "model_type"} | {"use_cache": False}
    found = transformers.AutoConfig.for_model(config["model_type"], **options)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(found, attn_implementation="sdpa", dtype=dtype)
    rng = torch.Generator(device).manual_seed(seed)
    library, how, last = bitsandbytes_maps(), SCHEMES[scheme], output_embedding(model)
    for module in model.modules():
        if (type(module) is nn.Linear or is_conv1d(module)) and module is not last:
            shape = tuple(module.weight.shape)[:: -1 if is_conv1d(module) else 1]
            dense = torch.empty(shape, device=device, dtype=dtype).normal_(std=0.02, generator=rng)
            library.pack(module, shape, library.packed(dense, how.quant_type, how.double), dtype)
            del dense
    _fill(model, device, rng)
    return model.requires_grad_(False).train()


@torch.no_grad()
def _fill(model: nn.Module, device: torch.device, rng: torch.Generator) -> None:
    """Give what has no memory yet its values: norms 1, biases 0, embeddings random, rotary frequencies their own."""
    known: dict[nn.Parameter, nn.Parameter] = {}
    for module in list(model.modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is None or not parameter.is_meta:
                continue
            if parameter not in known:  # tied ones stay tied
                value = torch.empty(parameter.shape, device=device, dtype=parameter.dtype)
                wide = parameter.ndim > 1
                value = value.normal_(std=0.02, generator=rng) if wide else value.fill_(float(name == "weight"))
                known[parameter] = nn.Parameter(value, requires_grad=False)
            module._parameters[name] = known[parameter]
    for parent in list(model.modules()):
        for child in list(parent.children()):
            if any(buffer is not None and buffer.is_meta for buffer in child._buffers.values()):
                with device:
                    fresh = type(child)(config=model.config) if hasattr(child, "inv_freq") else None
                for key in child._buffers:
                    child._buffers[key] = fresh._buffers[key] if fresh else _mask(child._buffers[key], device)
                if fresh is not None and hasattr(child, "original_inv_freq"):
                    child.original_inv_freq = fresh.original_inv_freq


def _mask(buffer: torch.Tensor, device: torch.device) -> torch.Tensor:
    """GPT-2's causal mask, the only other buffer there is."""
    return torch.ones(buffer.shape, device=device, dtype=buffer.dtype).tril_()
