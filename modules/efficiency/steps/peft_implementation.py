"""PEFT's models with the hyperparameters of ours, and the correspondence of their tensors."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from modules.efficiency.steps import decoders, unets
from modules.efficiency.steps.backbones import Batch, loss_of
from modules.efficiency.steps.trainee import START, TOTAL, Trainee
from variants.adapters.adapted_model import AdaptedModel
from variants.quantisation import give_back, quantise
from variants.sites.architectures import architecture_of
from variants.sites.targets import find_sites

_NAMES = {
    "lora": {"lora_A": "lora_A.default.weight", "lora_B": "lora_B.default.weight"},
    "vera": {"d": "vera_lambda_d.default", "b": "vera_lambda_b.default"},
    "adalora": {name: f"{name}.default" for name in ("lora_A", "lora_B", "lora_E")},
}
_NAMES["dora"] = _NAMES["lora"] | {"magnitude": "lora_magnitude_vector.default.weight"}


def available() -> bool:
    """Whether PEFT is installed."""
    with contextlib.suppress(ImportError):
        import peft  # noqa: F401

        return True
    return False


def whole_maps(model: nn.Module) -> list[str]:
    """Last names of the maps to queries and values, PEFT's default targets: it cannot adapt slices of a fused map."""
    return list(dict.fromkeys(site.module_path.rpartition(".")[2] for site in find_sites(model, "attn-qv")))


def config(method: str, options: dict[str, Any], model: nn.Module, target: str = "attn-qv"):
    """PEFT's configuration of a method on a model."""
    import peft

    common: dict[str, Any] = {"target_modules": whole_maps(model) if target == "attn-qv" else target}
    if target == "attn":
        common["target_modules"] = unets.TARGETS
    else:
        common["task_type"] = "CAUSAL_LM" if architecture_of(model).causal else "SEQ_CLS"
    if method == "vera":
        return peft.VeraConfig(r=options["r"], projection_prng_key=3, save_projection=False, **common)
    if method == "adalora":
        steps = {"tinit": int(options["tinit"]), "tfinal": int(options["tfinal"]), "deltaT": 1, "total_step": TOTAL}
        ranks = {"init_r": options["init_r"], "target_r": options["target_r"], "lora_alpha": int(options["alpha"])}
        return peft.AdaLoraConfig(**ranks, **steps, orth_reg_weight=0.1, **common)
    fan = {"fan_in_fan_out": architecture_of(model).transposed}
    return peft.LoraConfig(r=options["r"], lora_alpha=int(options["alpha"]), use_dora=method == "dora", **fan, **common)


def theirs(
    model: nn.Module,
    method: str,
    options: dict[str, Any],
    bf16: bool,
    low: bool,
    target: str = "attn-qv",
    own_loss: bool = False,
    scheme: str = "",
) -> Trainee:
    """PEFT's adapter.

    Args:
        low: adapters and head in bf16 too, and no autocast; else they are fp32 under autocast.
        target: ``attn-qv``, ``all-linear``, or of a UNet ``attn``.
        own_loss: the model computes its loss itself.
        scheme: how the frozen base is kept in few bits, by bitsandbytes' own maps.
    """
    import peft

    causal = architecture_of(model).causal
    if bf16:
        model.to(torch.bfloat16)
    if scheme:
        quantise(model, scheme)
        give_back(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = config(method, options, model, target)
        if target == "attn":  # as diffusers' training scripts do, without PEFT's wrapper
            model.add_adapter(wanted)
            wrapped = model
        else:
            wrapped = peft.get_peft_model(model, wanted, autocast_adapter_dtype=not low)
    for name, parameter in wrapped.named_parameters():
        if ".ranknum." in name:  # AdaLoRA's divisor: over a bf16 base PEFT 0.21's widening makes it trainable
            parameter.requires_grad_(False)
    wrapped.train()
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.to(torch.bfloat16 if low else torch.float32)
    inner = base_of(wrapped)

    def core(batch: Batch) -> Tensor:
        if method == "adalora":  # its penalty is in the loss of this forward alone
            inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "labels")}
            return wrapped.base_model(**inputs).loss.float()
        return decoders.own_loss(inner, batch) if own_loss else loss_of(inner if causal else wrapped, batch)

    has_step = method == "adalora"
    after = (lambda step: wrapped.base_model.update_and_allocate(START + step)) if has_step else None
    return Trainee(core, parameters, after=after, autocast=bf16 and not low, handle=wrapped)


def base_of(wrapped: nn.Module) -> nn.Module:
    """The model that PEFT has put its layers into."""
    return wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped


@torch.no_grad()
def equalise(adapted: AdaptedModel, wrapped: nn.Module, method: str) -> None:
    """Give PEFT's adapter and head the values of ours; VeRA's random matrices go the other way.

    Raises:
        ValueError: PEFT trains a tensor that ours does not, or the other way round.
    """
    others = []
    for tensor, other in pairs(adapted, wrapped, method):
        other.copy_(tensor.view_as(other))
        others.append(id(other))
    if set(others) != {id(p) for p in wrapped.parameters() if p.requires_grad}:
        raise ValueError(f"PEFT's {method} trains other tensors than ours")
    if method == "vera":
        for layer in adapted.layers:
            for name in "AB":
                matrix = getattr(wrapped.base_model, f"vera_{name}")["default"]
                getattr(layer.bank, name).copy_(matrix)


def pairs(adapted: AdaptedModel, wrapped: nn.Module, method: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Each trained tensor of ours, head included, and PEFT's."""
    base = base_of(wrapped)
    for key, tensor in adapted.trained().items():
        path, _, name = key.rpartition(".")
        if key in adapted.head:
            first, _, rest = key.partition(".")
            other = base.get_parameter(f"{first}.modules_to_save.default.{rest}")
        else:
            place, _, which = f"{path}.{_NAMES[method][name]}".rpartition(".")
            other = getattr(base.get_submodule(place), which, None)
            other = base.get_submodule(place)[which] if other is None else other
        yield tensor, other
