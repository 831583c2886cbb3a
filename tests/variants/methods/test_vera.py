"""VeRA against PEFT on PEFT's own random matrices, and what is shared, made and saved of them."""

import math

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.support.models import MODELS, inputs
from tests.support.parity import MAPS, adapter_size, compare, off, pair
from variants import VariantError, VeRA, attach, load
from variants.formats.native import save_adapter


def banks(adapted):
    return {id(layer.bank): layer.bank for layer in adapted.layers}


@pytest.mark.parametrize("name", MAPS)
def test_equals_peft(name):
    """PEFT has one pair for all layers, as large as the largest, and slices it; ours is one pair for each shape.

    On GPT-2 its b covers q, k and v of the whole c_attn; our default target is the slices q and v.
    """
    made = pair(
        name,
        VeRA(r=20, target=",".join(MAPS[name])),
        peft.VeraConfig(r=20, target_modules=MAPS[name], projection_prng_key=3),
    )
    for layer in made.ours.layers:
        layer.bank.A.copy_(made.theirs.base_model.vera_A["default"])
        layer.bank.B.copy_(made.theirs.base_model.vera_B["default"])
    found = compare(made)
    assert max(found.values()) < 1e-5, found


def test_layers_of_one_shape_share_a_bank():
    adapted = attach(MODELS["roberta"](), VeRA(r=8, target="all-linear"))
    shapes = {(layer.site.in_features, layer.site.out_features) for layer in adapted.layers}
    assert len(adapted.layers) == 12 and len(shapes) == len(banks(adapted)) == 3
    for layer in adapted.layers:
        assert layer.bank.A.shape == (8, layer.site.in_features)
        assert layer.bank.B.shape == (layer.site.out_features, 8)
        assert not layer.bank.A.requires_grad
    r = attach(MODELS["roberta"](), VeRA(r=8, per_layer={"value": {"r": 5}})).layers
    assert [len(layer.bank.A) for layer in r] == [8, 5, 8, 5]
    assert r[0].bank is r[2].bank and r[1].bank is r[3].bank


def test_bank_depends_on_its_own_seed_alone():
    """Not on the run's seed, the global generator, other shapes or the model."""
    first = attach(MODELS["roberta"](), VeRA(r=8), seed=0).layers[0].bank
    torch.manual_seed(123)
    again = attach(MODELS["bert"](), VeRA(r=8, target="all-linear"), seed=7).layers[0].bank
    other = attach(MODELS["roberta"](), VeRA(r=8, projection_seed=1)).layers[0].bank
    assert torch.equal(first.A, again.A) and torch.equal(first.B, again.B)
    assert off(first.A, other.A) > 0.01 and off(first.B, other.B) > 0.01


def test_initial_values():
    """Kaiming uniform, bound √(6/fan_in) as PEFT's, fan_in being `in` for A and r for B; d = 0.1, b = 0."""
    made = attach(nn.Sequential(nn.Linear(300, 200)), VeRA(r=150, target="0", d_init=0.2), head=[]).layers[0]
    for matrix, fan_in in ((made.bank.A, 300), (made.bank.B, 150)):
        bound = math.sqrt(6 / fan_in)
        assert bound * 0.999 < matrix.abs().max() <= bound
        assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert abs(matrix.mean().item()) < bound / 50
    assert (made.d == 0.2).all() and not made.b.any()
    default = attach(nn.Sequential(nn.Linear(4, 3)), VeRA(target="0"), head=[]).layers[0]
    assert (default.d == 0.1).all() and default.d.shape == (256,)  # r beyond the layer's size


@pytest.mark.parametrize("save_projection", [False, True])
def test_file(tmp_path, save_projection):
    """The matrices are made from their seed again, or stand in the file once for each shape."""
    adapted = attach(MODELS["roberta"](), VeRA(r=8, save_projection=save_projection))
    with torch.no_grad():
        for tensor in adapted.trained().values():
            tensor += 0.3 * torch.randn_like(tensor)
        if save_projection:  # from elsewhere: no seed gives them
            adapted.layers[0].bank.A.normal_()
    save_adapter(adapted, tmp_path)
    stored = [key for key in load_file(tmp_path / "adapter.safetensors") if ".bank." in key]
    assert len(stored) == (2 if save_projection else 0)
    loaded = load(MODELS["roberta"](), tmp_path)
    batch = inputs("roberta")
    assert torch.equal(loaded.model(**batch).logits, adapted.model(**batch).logits)
    assert len(banks(loaded)) == 1


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_base(autocast):
    """The bank keeps the base's dtype; d and b, and what is merged, are fp32."""
    model = MODELS["roberta"]().bfloat16()
    adapted = attach(model, VeRA(r=8))
    wide = attach(MODELS["roberta"](), VeRA(r=8))
    with torch.no_grad():
        for mine, other in zip(adapted.layers, wide.layers, strict=True):
            other.d.copy_(mine.d.normal_())
            other.b.copy_(mine.b.normal_())
    layer = adapted.layers[0]
    assert layer.bank.A.dtype == layer.bank.B.dtype == torch.bfloat16
    assert layer.d.dtype == layer.b.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(**inputs("roberta")).logits
    expected = wide.model(**inputs("roberta")).logits
    assert off(logits.float(), expected) < 0.05 * expected.abs().max()
    bank = layer.bank
    A, B = bank.A.float(), bank.B.float()
    delta = layer.delta_weight()
    assert delta.dtype == torch.float32 and off(delta, layer.b.diag() @ B @ layer.d.diag() @ A) < 1e-5
    assert adapted.merge() < 1e-5


@pytest.mark.slow
def test_compiles_as_one_graph():
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    adapted = attach(model, VeRA(r=8, target="0,1"), head=[])
    assert len(banks(adapted)) == 1
    torch._dynamo.reset()
    x = torch.randn(5, 12)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert off(compiled(x), model(x)) < 1e-6
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("backbone", "size"), [("roberta-base", 43_008), ("gpt2-medium", 98_304), ("gpt2-large", 165_888)]
)
def test_published_sizes(backbone, size):
    """0.043M (Table 2), 0.098M and 0.17M (Table 3): q and v of L layers have L·2·(d_model + r) values."""
    assert adapter_size(backbone, VeRA(r=1024)) == size


def test_what_cannot_work_is_refused():
    with pytest.raises(VariantError, match="r must be at least 1"):
        VeRA(r=0)
