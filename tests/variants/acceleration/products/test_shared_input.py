"""Frozen maps that read one tensor: joined weights, one gradient, inputs computed again; and the model stays itself."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import T5Config, T5ForConditionalGeneration

from tests.support.passes import IDS, adapted, distance, gpt2, llama, loss_and_gradients, roberta
from variants import AdaLoRA, DoRA, LoRA, VeRA, attach
from variants.acceleration import accelerated, passes
from variants.acceleration.basics import policy
from variants.acceleration.products import shared_input
from variants.adapters.stack import Stack
from variants.sites.targets import siblings

VARIANTS = [LoRA(r=4), AdaLoRA(init_r=4, target_r=2), DoRA(r=4), VeRA(r=8)]


@pytest.fixture(autouse=True)
def as_in_a_graph(monkeypatch):
    """On a CPU LoRA's maps take another way, which tests/variants/acceleration/test_merged_weight.py is about."""
    monkeypatch.setattr(passes, "merged_weights", lambda layers: ())
    with policy.for_graph():
        yield


class Ops(TorchDispatchMode):
    """The operations that are carried out, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("build", [roberta, gpt2, llama])
@pytest.mark.parametrize("large", [policy.LARGE, 0], ids=["kept", "computed again"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_gradients(variant, large, build, monkeypatch):
    """Queries and keys of other widths (LLaMA), no bias, all maps of a block: as without."""
    monkeypatch.setattr(policy, "LARGE", large)
    for target in ("q,v", "all-linear"):
        handle = adapted(build, type(variant)(**vars(variant) | {"target": target}), low=False)
        (loss, gradients), (same, found) = loss_and_gradients(handle, False), loss_and_gradients(handle, True)
        assert abs(same - loss) <= 1e-6 * abs(loss) and distance(found, gradients) < 1e-4


def test_one_product_and_one_gradient():
    """A block's three maps are one product forward, and no gradient of their input is added by itself."""
    handle = adapted(roberta, LoRA(r=4), low=False)
    forward, both = [], []
    for prepared in (False, True):
        with accelerated(handle) if prepared else nullcontext(), Ops() as ops:
            handle.model(input_ids=IDS)
        forward.append(ops.names.count("addmm"))
        with Ops() as ops:
            loss_and_gradients(handle, prepared)
        both.append(ops.names.count("add"))
    blocks, adapters = 2, 4  # whose products are written into the maps' output
    assert forward[0] - forward[1] == 2 * blocks + adapters
    summed = 4 + 3  # q, k, v and two adapters are five gradients; the first block's input wants none
    assert both[0] - both[1] >= summed - 3


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_an_input_that_a_norm_made_is_not_kept(variant, monkeypatch):
    """No tensor saved for the backward pass is the output of the first block's last norm, which the second reads."""

    def kept(large: int) -> bool:
        monkeypatch.setattr(policy, "LARGE", large)
        handle = adapted(roberta, variant, low=False)
        saved, made = set(), []
        norm = handle.model.roberta.encoder.layer[0].output.LayerNorm
        norm.register_forward_hook(lambda module, args, output: made.append(output.detach()))  # its memory stays its

        def note(tensor):
            if made:  # what was saved before is another's, whose memory may have been free since
                saved.add(tensor.data_ptr())
            return tensor

        noted = torch.autograd.graph.saved_tensors_hooks(note, lambda t: t)
        with noted, accelerated(handle):
            loss = handle.model(input_ids=IDS).logits.sum()
        loss.backward()
        return made[0].data_ptr() in saved

    assert kept(2**40) == (variant.name != "vera")  # whose A is frozen: the input is not needed at all
    assert not kept(0)


def test_only_graphs_and_large_inputs_are_read_together(monkeypatch):
    """Elsewhere the host's time counts, and PyTorch's own functions cost it less."""
    seen = []
    monkeypatch.setattr(
        shared_input, "SharedInput", lambda x, maps, own=shared_input.SharedInput: seen.append(x) or own(x, maps)
    )
    handle = adapted(roberta, LoRA(r=4), low=False)
    loss_and_gradients(handle, True)
    assert len(seen) == 2  # the blocks
    with monkeypatch.context() as eager:  # undone here: the fixture's own end comes first, and would be undone by it
        eager.setattr(policy, "_for_graph", False)
        loss_and_gradients(handle, True)
        assert len(seen) == 2
        eager.setattr(policy, "LARGE", 0)
        loss_and_gradients(handle, True)
        assert len(seen) == 4


def test_joined_weights_are_the_models_own():
    """The modules' parameters stay, as parts of one matrix: written into, moved and saved as before."""
    handle = adapted(roberta, LoRA(r=4), low=False)
    attention = handle.model.roberta.encoder.layer[0].attention.self
    before = {name: value.clone() for name, value in handle.model.state_dict().items()}
    parameters = dict(handle.model.named_parameters())
    loss, _ = loss_and_gradients(handle, True)
    step = attention.query.weight.nbytes
    assert attention.key.weight.data_ptr() == attention.query.weight.data_ptr() + step
    assert all(parameters[name] is p for name, p in handle.model.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in handle.model.state_dict().items())
    with torch.no_grad():
        attention.key.weight.mul_(2)
    changed, _ = loss_and_gradients(handle, True)
    assert changed != loss and changed == pytest.approx(loss_and_gradients(handle, False)[0], rel=1e-6)
    handle.model.double()
    moved, _ = loss_and_gradients(handle, True)
    assert moved == pytest.approx(changed, rel=1e-5)
    assert attention.key.weight.data_ptr() == attention.query.weight.data_ptr() + 2 * step


def test_weights_may_be_joined_in_an_evaluation():
    handle = adapted(roberta, LoRA(r=4), low=False)
    before, _ = loss_and_gradients(handle, False)
    with torch.inference_mode(), accelerated(handle):
        handle.model(input_ids=IDS)
    attention = handle.model.roberta.encoder.layer[1].attention.self
    assert attention.key.weight.data_ptr() == attention.query.weight.data_ptr() + attention.query.weight.nbytes
    loss, gradients = loss_and_gradients(handle, False)  # PyTorch's own functions keep the weights for the gradient
    assert loss == before and all(g.norm() > 0 for g in gradients.values())


def test_the_plain_model_is_saved(tmp_path):
    """save_pretrained writes each part as a tensor of its own."""
    handle = adapted(roberta, LoRA(r=4), low=False)
    loss_and_gradients(handle, True)
    handle.model.save_pretrained(tmp_path)
    again = type(handle.model).from_pretrained(tmp_path).state_dict()
    own = {k: v for k, v in handle.model.state_dict().items() if ".adapter." not in k}
    assert own.keys() == again.keys() and all(torch.equal(own[k], again[k]) for k in own)


def test_merging_after_a_joined_pass():
    handle = adapted(roberta, LoRA(r=4), low=False)
    loss, _ = loss_and_gradients(handle, True)
    weights = [layer.site.weight().clone() for layer in handle.layers]
    handle.merge()
    merged, _ = loss_and_gradients(handle, True)
    handle.unmerge()
    assert merged == pytest.approx(loss, rel=1e-5)
    assert all(torch.equal(layer.site.weight(), w) for layer, w in zip(handle.layers, weights, strict=True))


def test_a_reading_ends_with_its_pass():
    """The very tensor that a prepared pass has read is read again without one: its gradient is whole."""
    handle = attach(nn.Sequential(nn.Linear(6, 6)), LoRA(r=2, target="0"), head=[])
    with torch.no_grad():
        handle.layers[0].lora_B.normal_()
    x = torch.randn(3, 6, requires_grad=True) * 1.0
    with accelerated(handle):
        handle.model(x).sum()
    again = torch.autograd.grad(handle.model(x).square().sum(), x)
    fresh = x.detach().clone().requires_grad_()
    assert torch.allclose(*again, *torch.autograd.grad(handle.model(fresh).square().sum(), fresh))


class Normed(nn.Module):
    """Attention whose queries are normed, and saved for the backward pass, before the values are made."""

    class config:
        model_type = "llama"

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.Module()
        for role in "qkv":
            self.self_attn.add_module(f"{role}_proj", nn.Linear(8, 8, bias=False))
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        q = self.self_attn.q_proj(x)
        q = q * q.square().mean(-1, keepdim=True).rsqrt() * self.scale
        return q.mul(self.self_attn.k_proj(x)) + self.self_attn.v_proj(x)


def test_adapters_write_into_their_own_part_only():
    torch.manual_seed(0)
    handle = attach(Normed(), LoRA(r=2, target="q,v"), head=["scale"])
    with torch.no_grad():
        for layer in handle.layers:
            layer.lora_B.normal_()
    x, found = torch.randn(3, 8, requires_grad=True), []
    for prepared in (False, True):
        with accelerated(handle) if prepared else torch.enable_grad():
            y = handle.model(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *handle.trained().values()])))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found, strict=True))


def test_siblings_read_one_tensor():
    """Cross-attention's keys and values read the encoder's output, its queries do not."""
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_ff=32, num_layers=2, num_heads=2, d_kv=8, decoder_start_token_id=0)
    )
    names = {id(module): name for name, module in model.named_modules()}
    groups = [[names[id(module)] for module in group] for group in siblings(model)]
    assert len(groups) == 4 and not any("EncDec" in name for group in groups for name in group)
    handle = attach(model, LoRA(r=2, target="q,v"))
    with torch.no_grad():
        for parameter in handle.trained().values():
            parameter.add_(0.1)
    ids = torch.randint(1, 50, (2, 5), generator=torch.Generator().manual_seed(0))
    losses = [model.eval()(input_ids=ids, labels=ids).loss]
    with accelerated(handle):
        losses.append(model(input_ids=ids, labels=ids).loss)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


@pytest.mark.parametrize("large", [policy.LARGE, 0], ids=["kept", "computed again"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_stacked_adapters_add_to_the_same_gradient(variant, large, monkeypatch):
    """Under vmap too, each adapter's A multiplies its own rows."""
    monkeypatch.setattr(policy, "LARGE", large)
    handle = adapted(roberta, variant, low=False)
    handle.add("second", variant, seed=1)
    stack = Stack(handle, ["default", "second"])
    added, add = [], shared_input.GradientSum.add

    def noted(self, rows, matrix):
        added.append(matrix.ndim)
        add(self, rows, matrix)

    monkeypatch.setattr(shared_input.GradientSum, "add", noted)
    (loss, gradients), (same, found) = loss_and_gradients(stack, False), loss_and_gradients(stack, True)
    assert same == pytest.approx(loss, rel=1e-6) and distance(found, gradients) < 1e-4
    per_block = 3 + 2  # q, k, v and the adapters of two
    assert len(added) == per_block and added.count(3) == (0 if variant.name == "vera" else 2)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_gradients_that_lie_side_by_side_are_one_product(side_by_side):
    """As attention's of queries, keys and values on a GPU do; what comes out is autograd's own."""

    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *parts):
            ctx.save_for_backward(*parts)
            return sum(part.square().sum() for part in parts)

        @staticmethod
        def backward(ctx, gradient):
            found = torch.cat([2 * part for part in ctx.saved_tensors], -1).split([4, 4, 6], -1)
            return tuple(found) if side_by_side else tuple(part.clone() for part in found)

    maps = [nn.Linear(5, width) for width in (4, 4, 6)]
    for module in maps:
        module.requires_grad_(False)
    x = torch.randn(2, 3, 5, requires_grad=True)
    (expected,) = torch.autograd.grad(sum(module(x).square().sum() for module in maps), x)
    with policy.for_graph():
        read = shared_input.SharedInput(x, shared_input.FusedLinears(maps))
        loss = Summed.apply(*(read.outputs[place] for place in range(3)))
        with Ops() as ops:
            (found,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(found, expected)
    assert ops.names.count("mm") + ops.names.count("addmm_") == (1 if side_by_side else 3)
