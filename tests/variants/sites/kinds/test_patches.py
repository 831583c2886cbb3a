"""Convolutions as linear maps of patches: against PyTorch's own unfolding, and against PEFT's LoRA and DoRA of them."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from variants import DoRA, LoRA, VariantError, attach
from variants.contract.models import shift
from variants.sites.kinds.convolution import no_map
from variants.sites.kinds.patches import Patches, Window, in_rows
from variants.sites.site import Site
from variants.sites.targets import find_sites

SHAPES = {
    "plain": (nn.Conv2d(3, 6, 3), (2, 3, 8, 7)),
    "stride, padding, dilation": (nn.Conv2d(3, 6, (3, 2), (2, 1), (1, 2), (1, 2)), (2, 3, 9, 7)),
    "one pixel": (nn.Conv2d(3, 6, 1, bias=False), (2, 3, 4, 5)),
    "one dimension": (nn.Conv1d(3, 6, 3, 2, 1), (2, 3, 9)),
    "three dimensions": (nn.Conv3d(3, 6, 2, 1, 1), (2, 3, 4, 5, 3)),
}


@pytest.fixture(params=SHAPES)
def case(request) -> tuple[nn.Module, torch.Tensor]:
    conv, shape = SHAPES[request.param]
    torch.manual_seed(0)
    return copy.deepcopy(conv), torch.randn(*shape)


def test_it_is_the_map_of_its_patches(case) -> None:
    conv, x = case
    site, y = Site(conv, "c", "c"), conv(x)
    assert (site.out_features, site.in_features) == (6, conv.weight[0].numel())
    patches = site.window.patches(x)
    bias = 0 if conv.bias is None else conv.bias
    assert torch.allclose(patches @ site.weight().mT + bias, in_rows(y), atol=1e-5)
    assert torch.allclose(site.times(Patches(site.window, x)) + bias, in_rows(y), atol=1e-5)
    if isinstance(conv, nn.Conv2d):
        assert torch.equal(patches, F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).mT)


def test_it_writes_and_restores_in_any_memory_format() -> None:
    for form in (torch.contiguous_format, torch.channels_last):
        conv = nn.Conv2d(3, 6, 3).to(memory_format=form)
        for options in ({}, {"start": 2, "stop": 4}):
            site, before, new = Site(conv, "c", "c", **options), conv.weight.detach().clone(), torch.randn(6, 27)
            kept = site.kept()
            site.write(new[: site.out_features], None)
            assert torch.equal(site.weight(), new[: site.out_features])
            assert torch.equal(conv.weight[4:], before[4:]) == bool(options)
            site.restore(kept)
            assert torch.equal(conv.weight, before)


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "2 groups"),
        (nn.Conv2d(4, 4, 3, padding="same"), "pads by a word ('same')"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "other values than zeros (reflect)"),
        (nn.ConvTranspose2d(4, 4, 3), "transposed"),
    ],
)
def test_what_is_no_such_map_is_refused_in_one_line(conv, reason) -> None:
    assert reason in no_map(conv)
    model = nn.ModuleDict({"conv": conv, "other": nn.Conv2d(4, 4, 3)})
    with pytest.raises(VariantError, match="conv") as error:
        attach(nn.ModuleDict({"one": conv}), LoRA(target="one"))
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert [site.path for site in find_sites(model, "conv")] == ["other"]


def test_patches_are_formed_only_where_they_must_be(monkeypatch) -> None:
    x, window = torch.randn(2, 3, 5, 5), Window.of(nn.Conv2d(3, 6, 3, padding=1))
    patches, formed, A = Patches(window, x), window.patches(x), torch.randn(4, 27)
    lazy = [F.linear(patches, A), F.linear(patches.to(torch.float64), A.double())]
    assert torch.allclose(lazy[0], formed @ A.mT, atol=1e-5) and lazy[1].dtype == torch.float64
    torch.manual_seed(0)
    dropped = F.dropout(patches, 0.5)
    torch.manual_seed(0)
    assert torch.equal(dropped.formed(), window.patches(F.dropout(x, 0.5)))  # pixels, and not entries of patches
    for asked in (
        lambda p: p @ A.mT,
        lambda p: 2 * p,
        lambda p: p.relu().sum(-1),
        lambda p: torch.cat([p, p]),
        lambda p: torch.mul(p, other=p),
        lambda p: -p[:, 1:],
    ):
        assert torch.allclose(asked(patches), asked(formed), atol=1e-5)
    monkeypatch.setattr(Window, "patches", lambda *_: pytest.fail("formed"))
    model = nn.Sequential(nn.Conv2d(3, 6, 3))
    for variant in (LoRA(r=2, dropout=0.5, target="0"), DoRA(r=2, dropout=0.5, target="0")):
        adapted = attach(copy.deepcopy(model), variant)
        adapted.model.train()(x).sum().backward()


# ---- against PEFT -------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=2)  # PEFT's A knows no dilation
        self.second = nn.Conv2d(8, 6, 1)
        self.third = nn.Conv2d(6, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


@pytest.mark.parametrize("variant", [LoRA, DoRA])
def test_parity_with_peft(variant) -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 12, 11)
    own = attach(copy.deepcopy(net), variant(r=3, alpha=5.0, target="first,second,third"))
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=list(dict(net.named_children())), use_dora=variant is DoRA
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(copy.deepcopy(net), config)
    for index, tensor in enumerate(own.trained().values()):
        shift(tensor, index)
    parameters = dict(theirs.named_parameters())

    def name(key: str) -> str:
        path, _, leaf = key.rpartition(".")
        leaf = "lora_magnitude_vector" if leaf == "magnitude" else leaf
        return f"base_model.model.{path}.{leaf}.default.weight"

    with torch.no_grad():
        for key, tensor in own.trained().items():
            parameters[name(key)].copy_(tensor.view_as(parameters[name(key)]))
    outputs = own.model(x), theirs(x)
    assert (outputs[0] - outputs[1]).abs().max() < 1e-6
    for output in outputs:
        output.square().sum().backward()
    for key, tensor in own.trained().items():
        expected = parameters[name(key)].grad.view_as(tensor)
        assert (tensor.grad - expected).abs().max() < 1e-6 * (1 + expected.abs().max()), key
    own.merge()
    merged = theirs.merge_and_unload()
    for path, conv in net.named_children():
        got, expected = own.model.get_submodule(path).weight, merged.get_submodule(path).weight
        assert got.shape == conv.weight.shape and (got - expected).abs().max() < 1e-6


# ---- passes -------------------------------------------------------------------------------------------------------


def adapted_net(variant=LoRA, **options):
    torch.manual_seed(0)
    adapted = attach(Net(), variant(r=2, target="conv", **options))
    for index, tensor in enumerate(adapted.trained().values()):
        shift(tensor, index)
    return adapted


def test_checkpointed_dropout_drops_the_same_pixels_again() -> None:
    adapted, x = adapted_net(dropout=0.5), torch.randn(2, 3, 12, 11)
    gradients = []
    for run in (lambda: adapted.model(x), lambda: checkpoint(adapted.model, x, use_reentrant=False)):
        torch.manual_seed(3)
        adapted.model.zero_grad()
        run().square().sum().backward()
        gradients.append([t.grad.clone() for t in adapted.trained().values()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [LoRA, DoRA])
def test_one_graph_for_torch_compile(variant) -> None:
    adapted, x = adapted_net(variant), torch.randn(2, 3, 12, 11)
    expected = adapted.model(x)
    compiled = torch.compile(adapted.model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), expected, atol=1e-6)
    torch.compiler.reset()


def test_low_precision_and_single_images() -> None:
    adapted, x = adapted_net(), torch.randn(2, 3, 12, 11)
    expected = adapted.model(x)
    assert torch.allclose(adapted.model(x[0]), expected[0], atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert (adapted.model(x).float() - expected).norm() < 0.02 * expected.norm()
    low = adapted_net()
    low.model.to(torch.bfloat16)
    output = low.model(x.bfloat16())
    assert output.dtype == torch.bfloat16 and (output.float() - expected).norm() < 0.02 * expected.norm()


def test_images_of_one_batch_go_through_their_own_adapters() -> None:
    adapted, x = adapted_net(), torch.randn(3, 3, 12, 11)
    adapted.add("other", LoRA(r=1, target="first"), 1)
    for index, tensor in enumerate(adapted.trained().values()):
        shift(tensor, 50 + index)
    alone = {}
    for name in ("default", "other"):
        adapted.switch(name)
        alone[name] = adapted.model(x)
    with adapted.mixed(["other", "default", "other"]) as model:
        rows = model(x)
    expected = torch.stack([alone["other"][0], alone["default"][1], alone["other"][2]])
    assert torch.allclose(rows, expected, atol=1e-6)
