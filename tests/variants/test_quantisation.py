"""Bases in few bits: codes against plain torch, the library's traps, what is left alone, files."""

from __future__ import annotations

import copy
import gc
import logging
import warnings
import weakref

import pytest
import torch
from torch import nn

from tests.support.models import MODELS, inputs
from tests.support.nf4_reference import quantised
from tests.support.tiny import Off, train
from variants import DoRA, LoRA, VariantError, attach
from variants.formats.native import load, read_adapter, save_adapter
from variants.quantisation import SCHEMES, bits_per_parameter, dequantise, quantisation_of, quantise
from variants.registry import resolve
from variants.sites.kinds.few_bits import dequantised, is_packed

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install -e '.[quant]'")


def packed(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if is_packed(p)}


def same(found: dict[str, nn.Parameter], codes: dict[str, torch.Tensor]) -> bool:
    return found.keys() == codes.keys() and all(torch.equal(p.data, codes[key]) for key, p in found.items())


def llama() -> tuple[nn.Module, dict]:
    return MODELS["llama"]().eval(), inputs("llama")


# ---- codes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["nf4", "nf4-dq", "fp4", "fp4-dq"])
@pytest.mark.parametrize("shape", [(1000, 333), (100, 16), (30, 80), (64, 128)])
def test_codes_and_scales_are_those_of_the_papers(scheme: str, shape: tuple[int, int]) -> None:
    """Rows of 16 and 80 are read wrongly by the library itself on some CPUs."""
    model = nn.Sequential(nn.Linear(*shape[::-1], bias=False))
    with torch.no_grad():
        model[0].weight.normal_(generator=torch.Generator().manual_seed(0))
    codes, scales, dense = quantised(model[0].weight.detach(), SCHEMES[scheme].quant_type, SCHEMES[scheme].double)
    note = quantise(model, scheme)
    found = model[0].weight
    assert torch.equal(found.data, codes) and torch.equal(found.quant_state.absmax, scales)
    assert torch.equal(dequantised(model[0].weight), dense)
    x = torch.randn(3, shape[1], requires_grad=True)
    (y := model(x)).sum().backward()
    assert torch.equal(y, x @ dense.T) and torch.equal(x.grad, torch.ones_like(y) @ dense)
    assert note.relative_error == pytest.approx({"nf4": 0.092, "fp4": 0.122}[scheme[:3]], abs=8e-3)


def test_eight_bits_are_rows_divided_by_their_largest_values() -> None:
    model = nn.Sequential(nn.Linear(64, 32))
    weight = model[0].weight.detach().clone()
    quantise(model, "int8")
    most = weight.half().abs().amax(1, keepdim=True).float()
    assert torch.equal(model[0].weight.data, (weight.half().float() * (127 / most)).round().to(torch.int8))
    x = torch.randn(5, 64, requires_grad=True)
    y = model(x)
    expected = torch.nn.functional.linear(x, dequantised(model[0].weight), model[0].bias)
    assert torch.allclose(y, expected, atol=1e-5) and torch.equal(model.eval()(x), y)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    assert torch.allclose(x.grad, gradient @ dequantised(model[0].weight), atol=1e-5)


def test_bits_per_parameter_are_the_papers() -> None:
    """Section 3: 4.127 with double quantisation, 4.5 without; the mean of the scales, 32 bits a map, comes on top."""
    for scheme, bits in (("nf4-dq", 4.127), ("nf4", 4.5), ("int8", 8.0)):
        model = nn.Sequential(nn.Linear(1024, 1024, bias=False))
        quantise(model, scheme)
        assert bits_per_parameter(model) == pytest.approx(bits, abs=4e-2 if scheme == "int8" else 5e-4)
        assert SCHEMES[scheme].bits == pytest.approx(bits, abs=5e-4)


# ---- what is quantised ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["roberta", "gpt2", "llama", "t5", "bert"])
def test_head_embeddings_norms_and_biases_stay(name: str) -> None:
    model = MODELS[name]().eval()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    adapted = attach(model, LoRA(r=2))
    total = adapted.count()["total"]
    quantise(adapted, "nf4")
    own = packed(model)
    assert own and adapted.count()["total"] == total, "numbers are counted, not bytes"
    for key, parameter in model.named_parameters():
        if key not in own and ".adapter." not in key:
            assert torch.equal(parameter, before[key]), key
    assert all(key.endswith(".weight") and "norm" not in key and "embed" not in key for key in own)
    assert not set(own) & {*adapted.head, "lm_head.weight"}


def test_a_method_that_trains_the_weights_is_refused_in_a_line() -> None:
    for method in ("full", "ft_top2"):
        adapted = attach(MODELS["roberta"](), resolve(method)())
        with pytest.raises(VariantError, match=r"the method trains \S+\.weight itself, which few bits cannot hold"):
            quantise(adapted, "nf4")
        assert not packed(adapted.model)


def test_wrong_calls() -> None:
    model, _ = llama()
    with pytest.raises(VariantError, match="unknown quantisation 'nf3'; there are nf4, nf4-dq, fp4"):
        quantise(model, "nf3")
    adapted = attach(model, LoRA(r=2))
    with pytest.raises(VariantError, match="give quantise\\(\\) their handle"):
        quantise(model, "nf4")
    adapted.merge()
    with pytest.raises(VariantError, match="merged: unmerge"):
        quantise(adapted, "nf4")
    adapted.unmerge()
    quantise(adapted, "nf4")
    with pytest.raises(VariantError, match="in nf4 already"):
        quantise(adapted, "fp4")
    with pytest.raises(VariantError, match=r"takes its first update off \S+, which is in few bits already"):
        adapted.add("off", Off(r=2))


def test_without_the_library_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr("variants.schemes.find_spec", lambda name: None)
    with pytest.raises(VariantError, match="pip install 'lora-variants\\[quant\\]'"):
        quantise(llama()[0], "nf4")


# ---- traps of the library ------------------------------------------------------------------------------------------


def theirs(model: nn.Module) -> nn.Module:
    """The same packed weights in maps of the library's own classes, as transformers makes them."""
    for module in model.modules():
        if is_packed(module._parameters.get("weight")):
            module.__class__ = bitsandbytes.nn.Linear4bit
            module.support_avx512bf16_for_cpu = True
    return model


def test_an_evaluation_on_a_cpu_leaves_the_codes(caplog) -> None:
    """The library's own maps pack the weight anew there, after which it is read wrongly."""
    model, batch = llama()
    quantise(model, "nf4")
    adapted = attach(theirs(model), LoRA(r=2, target="all-linear"))
    before = {key: p.data.clone() for key, p in packed(model).items()}
    with torch.no_grad():
        first = model(**batch).logits
    assert same(packed(model), before)
    model.train()(**batch).logits.sum().backward()
    assert torch.equal(model.eval()(**batch).logits, first)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapted.trained().values())


def test_a_weight_that_was_packed_anew_is_refused() -> None:
    model, _ = llama()
    quantise(model, "nf4")
    next(iter(packed(theirs(model)).values())).quant_state.packing_format_for_cpu = True
    with pytest.raises(VariantError, match="was evaluated on this CPU before"):
        attach(model, LoRA(r=2))


def test_biases_keep_their_precision() -> None:
    """The library casts them in place to what it multiplies in."""
    for scheme in ("nf4", "int8"):
        model = nn.Sequential(nn.Linear(16, 8))
        bias = model[0].bias.detach().clone()
        quantise(model, scheme, compute_dtype=torch.bfloat16)
        assert model(torch.randn(2, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert torch.equal(model[0].bias, bias) and model[0].bias.dtype == torch.float32


def test_a_dropped_model_is_freed_at_once() -> None:
    """The library's parameters hold their module, and it them: gigabytes until the next collection of garbage."""
    gc.collect()
    gc.disable()
    try:
        model = nn.Sequential(nn.Linear(16, 8))
        quantise(model, "nf4")
        weight = weakref.ref(model[0].weight)
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_lower_precision_of_the_rest_leaves_packed_bytes() -> None:
    from modules.acceleration.frozen_precision import lower_frozen

    model, _ = llama()
    quantise(model, "nf4")
    before = {key: p.data.clone() for key, p in packed(model).items()}
    lower_frozen(model, torch.bfloat16)
    assert same(packed(model), before)
    assert model.model.norm.weight.dtype == torch.bfloat16


# ---- adapters on it ------------------------------------------------------------------------------------------------


def test_what_is_taken_off_the_base_is_taken_off_the_weights_as_they_were() -> None:
    """As QPiSSA: the rest of the 16-bit weight is quantised, and an adapter that goes off leaves the weight."""
    model, batch = llama()
    before = model(**batch).logits.detach()
    adapted = attach(model, Off(r=2, target="all-linear"))
    rest = copy.deepcopy(model)
    quantise(adapted, "nf4")
    for path, layer in adapted.adapter.layers.items():
        _, _, dense = quantised(rest.get_submodule(path).weight.detach(), "nf4", False)
        assert torch.equal(layer.site.weight(), dense)
    on, codes = model(**batch).logits, {key: p.data.clone() for key, p in packed(model).items()}
    with adapted.disabled():
        assert torch.allclose(model(**batch).logits, before, atol=1e-5) and not packed(model)
    assert torch.equal(model(**batch).logits, on)
    assert same(packed(model), codes)
    with pytest.raises(VariantError, match="quantise when it is the only adapter"):
        other = attach(llama()[0], Off(r=2))
        other.add("second", LoRA(r=2))
        quantise(other, "nf4")


def test_slices_of_a_fused_map_merge_and_come_back() -> None:
    model, batch = MODELS["gpt2"]().eval(), inputs("gpt2")
    adapted = attach(model, LoRA(r=2, target="attn-qv"))
    quantise(adapted, "nf4-dq")
    train(adapted.trained(), 0)
    codes, out = {key: p.data.clone() for key, p in packed(model).items()}, model(**batch).logits
    adapted.merge()
    assert torch.allclose(model(**batch).logits, out, atol=1e-5)
    adapted.unmerge()
    assert same(packed(model), codes)
    assert torch.equal(model(**batch).logits, out)


def test_dequantised_is_a_plain_model_of_the_same_outputs(tmp_path) -> None:
    for name in ("gpt2", "llama"):
        model, batch = MODELS[name]().eval(), inputs(name)
        kinds = [type(module) for module in model.modules()]
        quantise(model, "nf4")
        out = model(**batch).logits
        dequantise(model)
        assert [type(module) for module in model.modules()] == kinds and quantisation_of(model) is None
        model.save_pretrained(tmp_path / name)
        assert torch.allclose(type(model).from_pretrained(tmp_path / name)(**batch).logits, out, atol=1e-6)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_an_adapters_file_says_on_which_base_it_was_trained(tmp_path) -> None:
    model, batch = llama()
    adapted = attach(model, DoRA(r=2))
    quantise(adapted, "nf4-dq")
    train(adapted.trained(), 0)
    out = model(**batch).logits
    save_adapter(adapted, tmp_path)
    base = read_adapter(tmp_path)[0]["base"]
    assert base["quantisation"]["scheme"] == "nf4-dq" and base["fingerprint"]
    with pytest.warns(UserWarning, match=r"trained on a base in nf4-dq, and this one is not quantised, whose weights"):
        load(llama()[0], tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load(llama()[0], tmp_path, strict=True, quantised=True)
    assert torch.equal(again.model(**batch).logits, out)
    dense = attach(llama()[0], LoRA(r=2))
    save_adapter(dense, tmp_path / "dense")
    quantised_base, _ = llama()
    quantise(quantised_base, "fp4")
    with pytest.warns(UserWarning, match="a base that was not quantised, and this one is in fp4"):
        load(quantised_base, tmp_path / "dense")


@pytest.mark.parametrize("scheme", ["nf4", "nf4-dq", "int8"])
def test_a_quantised_folder_is_written_and_read_by_transformers(tmp_path, scheme: str) -> None:
    model, batch = llama()
    adapted = attach(model, LoRA(r=2))
    quantise(adapted, scheme)
    with adapted.disabled():
        out = model(**batch).logits
    model.save_pretrained(tmp_path)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    found = type(model).from_pretrained(tmp_path)
    assert quantisation_of(found).scheme == scheme
    again = attach(found, LoRA(r=2))
    assert torch.allclose(again.model.eval()(**batch).logits, out, atol=1e-5)
    assert {key: p.data.tolist() for key, p in packed(model).items()} == {
        key: p.data.tolist() for key, p in packed(found).items()
    }
