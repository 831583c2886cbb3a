"""bitsandbytes' products under every method: on a GPU, and stacked."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import transformers
from torch import nn

from tests.support.passes import IDS, roberta
from variants import AdaptedModel, VariantError, attach
from variants.acceleration import accelerated
from variants.adapters.stack import Stack
from variants.contract.models import shift
from variants.quantisation import dequantise, quantise
from variants.registry import names, resolve

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install -e '.[quant]'")


@pytest.mark.gpu("products of packed weights in bf16")
@pytest.mark.parametrize("fast", [False, True], ids=["plain", "accelerated"])
@pytest.mark.parametrize("name", names())
def test_on_a_gpu_every_method_computes_what_it_does_on_the_dequantised_base(name: str, fast: bool) -> None:
    """Within a hundredth, of outputs and of gradients: both are rounded to bf16, in different orders."""
    handle, batch = attach(wide_llama(), resolve(name)(), seed=0), torch.arange(96, device="cuda").view(2, 48)
    try:
        quantise(handle, "nf4-dq")
    except VariantError as error:
        assert "trains" in str(error)
        return
    if not handle.trained():  # head, where there is none
        return
    for index, tensor in enumerate(handle.adapter.tensors().values()):
        if tensor.requires_grad:
            shift(tensor.data, index)
    twin = copy.deepcopy(handle)
    dequantise(twin.model)
    outputs, gradients = zip(*(learnt(one, batch, fast) for one in (handle, twin)), strict=True)
    for what, (found, expected) in {"output": outputs, "gradient": gradients}.items():
        off = ((found - expected).norm() / expected.norm()).item()
        print(f"{name:14} {'accelerated' if fast else 'plain':11} {what:8} {off:.1e}")
        assert off <= 1e-2


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
@pytest.mark.parametrize("name", ["bitfit", "ia3", "oft"])  # which take the base's own product under vmap
def test_stacked_adapters_are_the_adapters_alone(name: str, scheme: str) -> None:
    handle, both, alone = attach(roberta().eval(), resolve(name)(), seed=0), ("default", "other"), []
    handle.add("other", resolve(name)(), 1)
    for index, adapter in enumerate(both):
        for number, tensor in enumerate(handle.adapters[adapter].tensors().values()):
            if tensor.requires_grad:
                shift(tensor.data, 7 * index + number)
    quantise(handle, scheme)
    for adapter in both:
        handle.switch(adapter)
        handle.model.zero_grad()
        logits = handle.model(input_ids=IDS).logits
        logits.square().sum().backward()
        alone.append((logits.detach(), {key: p.grad.clone() for key, p in handle.trained().items()}))
    stack = Stack(handle, both)
    together = stack.model(input_ids=IDS.repeat(2, 1)).logits
    together.square().sum().backward()
    for index, (logits, gradients) in enumerate(alone):
        torch.testing.assert_close(together.detach()[2 * index : 2 * index + 2], logits, atol=1e-5, rtol=1e-4)
        for key, gradient in gradients.items():
            torch.testing.assert_close(stack.trained()[key].grad[index], gradient, atol=1e-5, rtol=1e-3)


def wide_llama() -> nn.Module:
    """Wide enough that a rounding is not the largest part of anything."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"attention_bias": True}  # for methods that train biases
    config = transformers.LlamaConfig(vocab_size=128, max_position_embeddings=64, **sizes)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).to("cuda", torch.bfloat16)


def learnt(handle: AdaptedModel, batch: torch.Tensor, fast: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and all gradients in one vector."""
    with accelerated(handle) if fast else contextlib.nullcontext():
        output = handle.model(input_ids=batch).logits.float()
    output.square().mean().backward()
    return output.detach(), torch.cat([p.grad.float().flatten() for p in handle.trained().values()])
