"""Accelerated passes over bases in few bits: as plain ones, in each of the ways that a GPU's sizes ask for."""

from __future__ import annotations

import pytest
import torch

from modules.acceleration.packed_encoder import pack
from tests.support.passes import IDS, adapted, distance, gpt2, llama, loss_and_gradients, roberta
from variants import AdaLoRA, DoRA, LoRA, VeRA
from variants.acceleration import accelerated, passes
from variants.acceleration.basics import policy
from variants.acceleration.products import updated_maps
from variants.adapters.stack import Stack
from variants.quantisation import dequantise, quantise
from variants.sites.kinds import few_bits

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install -e '.[quant]'")
METHODS = {
    "lora": LoRA(r=4, target="all-linear"),
    "dora": DoRA(r=4, target="all-linear"),
    "vera": VeRA(r=8, target="all-linear"),
    "adalora": AdaLoRA(init_r=4, target_r=2, target="all-linear"),
}


def on_few_bits(build, method: str, scheme: str = "nf4-dq", low: bool = False):
    handle = adapted(build, METHODS[method], low)
    quantise(handle, scheme)
    return handle


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("build", "way"), [(llama, "large"), (gpt2, "large"), (llama, "graph"), (roberta, "small")])
def test_as_plain_passes(build, way, method, monkeypatch) -> None:
    """ "large": maps and updates are one operation; "graph": maps share a gradient; "small": PyTorch's own."""
    if way == "large":
        monkeypatch.setattr(policy, "LARGE", 0)
    handle = on_few_bits(build, method)
    loss, gradients = loss_and_gradients(handle, False)
    with policy.for_graph(way == "graph"):
        other, found = loss_and_gradients(handle, True)
    assert other == pytest.approx(loss, rel=1e-6) and distance(found, gradients) < 1e-4


def test_queries_keys_and_values_are_one_operation(monkeypatch) -> None:
    """As over dense maps; and what the backward pass needs of W it reads from the codes again."""
    monkeypatch.setattr(policy, "LARGE", 0)
    monkeypatch.setattr(passes, "merged_weights", lambda layers: ())
    groups, own, read = [], updated_maps._Updated.apply, []

    def counted(x, z, A, sites, *rest):
        groups.append(len(sites))
        return own(x, z, A, sites, *rest)

    monkeypatch.setattr(updated_maps._Updated, "apply", counted)
    plain = few_bits.dequantised
    monkeypatch.setattr(few_bits, "dequantised", lambda weight: read.append(weight.shape) or plain(weight))
    handle = on_few_bits(llama, "lora")
    read.clear()
    loss_and_gradients(handle, True)
    assert groups == [3, 1, 2, 1] * 2
    maps = 14
    assert len(read) == 2 * maps - 3, "each in both passes; the first block's input wants no gradient"


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_stacked_seeds_are_the_seeds_alone(method) -> None:
    handle = adapted(llama, METHODS[method], False)
    handle.add("1", METHODS[method], 1)
    quantise(handle, "nf4")
    alone = {}
    for name in ("default", "1"):
        handle.switch(name)
        with torch.no_grad():
            alone[name] = handle.model(input_ids=IDS).logits
    stack = Stack(handle, ["default", "1"])
    with torch.no_grad(), accelerated(stack):
        both = stack.model(input_ids=IDS.repeat(2, 1)).logits
    assert torch.allclose(both, torch.cat([alone["default"], alone["1"]]), atol=1e-5)


def test_packed_rows() -> None:
    handle = on_few_bits(roberta, "lora")
    assert pack(handle) is not None


def test_changes_of_the_weight_are_noticed() -> None:
    """Dense again, merged, unmerged: what was found out about the maps is found out anew."""
    handle = on_few_bits(llama, "dora")
    first, _ = loss_and_gradients(handle, True)
    handle.merge()
    with torch.no_grad(), accelerated(handle):
        assert handle.model(input_ids=IDS).logits.square().mean().item() == pytest.approx(first, rel=1e-5)
    handle.unmerge()
    assert loss_and_gradients(handle, True)[0] == pytest.approx(first, rel=1e-6)
    dequantise(handle.model)
    assert loss_and_gradients(handle, True)[0] == pytest.approx(first, rel=1e-5)
