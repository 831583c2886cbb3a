"""The handle: what attaching changes, and switching, merging, saving, copying and counting."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support.models import MODELS, inputs
from tests.support.small_module import DROPOUT, Biases, Top, X, out, tiny, train
from variants import AdapterLayer, DoRA, Full, Head, LoRA, Variant, VariantError, attach, load
from variants.contract.models import CONV1D, FUSED, one_thread
from variants.fingerprint import fingerprint
from variants.formats.native import CONFIG, save_adapter


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    with one_thread():
        yield


# ---- attaching ------------------------------------------------------------------------------------------------


def test_attaching_leaves_the_model_what_it_was() -> None:
    model = tiny()
    kinds = {name: type(m) for name, m in model.named_modules()}
    names = {name: p for name, p in model.named_parameters()}
    attach(model, LoRA(r=4))
    after = dict(model.named_parameters())
    assert all(after[name] is p for name, p in names.items()), "base parameters keep their names and identity"
    assert all(type(dict(model.named_modules())[name]) is kind for name, kind in kinds.items())
    assert all(".adapter." in name for name in set(after) - set(names))
    trains = {name for name, p in after.items() if p.requires_grad}
    assert trains == {n for n in after if ".adapter." in n} | {"score.weight", "score.bias"}


def test_attaching_twice_is_refused() -> None:
    model = tiny()
    attach(model, LoRA(r=4))
    with pytest.raises(VariantError, match="carries adapters already: use the handle's add"):
        attach(model, LoRA(r=4))


@pytest.mark.parametrize("seed", [0, 1])
def test_initial_values_depend_on_seed_and_path(seed: int) -> None:
    def values(target: str) -> dict[str, Tensor]:
        return attach(tiny(), LoRA(r=4, target=target), seed).adapter.tensors()

    both, v_alone = values("q,v"), values("v")
    assert all(torch.equal(both[name], tensor) for name, tensor in v_alone.items())
    a = [tensor for name, tensor in both.items() if name.endswith("lora_A")]
    assert len({tensor.sum().item() for tensor in a}) == len(a) == 4, "every site starts elsewhere"
    other = attach(tiny(), LoRA(r=4), seed + 1).adapter.tensors()
    assert all(torch.equal(both[n], other[n]) == n.endswith("lora_B") for n in both)


def test_options_per_layer() -> None:
    variant = LoRA(r=2, per_layer={"*.0.*": {"r": 3}, "v_proj": {"r": 5, "alpha": 10.0}})
    layers = attach(tiny(), variant).adapter.layers
    ranks = [layer.lora_A.shape[0] for layer in layers.values()]
    assert ranks == [3, 5, 2, 5], "the last entry that matches wins"
    assert [layer.scaling for layer in layers.values()] == [8 / 3, 2.0, 4.0, 2.0]
    with pytest.raises(VariantError, match="per_layer names 'rank', which"):
        attach(tiny(), LoRA(per_layer={"*": {"rank": 3}}))
    with pytest.raises(VariantError, match="per_layer names 'target', which"):  # it would do nothing
        attach(tiny(), LoRA(per_layer={"*": {"target": "attn"}}))


def test_a_rank_that_does_not_fit_names_the_place() -> None:
    with pytest.raises(VariantError, match=r"r=17 is more than .*q_proj allows: its matrix is 16 x 16"):
        attach(tiny(), LoRA(r=17))


def test_pre_on_a_slice_is_refused() -> None:
    class PreLayer(AdapterLayer):
        def pre(self, x):
            return x

    @dataclass
    class Pre(Variant):
        layer = PreLayer

    with pytest.raises(VariantError, match="cannot sit on a slice such as .*c_attn.q"):
        attach(tiny(FUSED), Pre())


def test_the_head_may_be_named() -> None:
    adapted = attach(tiny(), LoRA(r=4), head=["score.bias"])
    assert adapted.count()["head"] == 3 and not adapted.model.score.weight.requires_grad
    assert attach(tiny(), LoRA(r=4), head=[]).count()["head"] == 0
    plain = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    sites = attach(plain, LoRA(r=2, target="all-linear"), head=["1.weight", "1.bias"]).adapter.layers
    assert list(sites) == ["0"]  # what trains in place is not adapted besides


# ---- several adapters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variants", [(LoRA(r=4), DROPOUT), (Top(), LoRA(r=2)), (Full(), Top()), (Biases(), Head())])
@pytest.mark.parametrize("kind", ["plain", FUSED, CONV1D])
def test_switching_is_exact_and_copies_no_base(variants, kind: str) -> None:
    model = tiny(kind)
    base, storage = out(model), {n: p.data_ptr() for n, p in model.named_parameters()}
    adapted = attach(model, variants[0], name="a")
    train(adapted, 1)
    a = out(model)
    adapted.add("b", variants[1])
    fresh = out(model)
    assert torch.allclose(fresh, base, atol=1e-5), "the second starts from the base, with the head the model came with"
    train(adapted, 2)
    b = out(model)
    assert not torch.equal(a, b)
    for name, expected in (("a", a), ("b", b), ("b", b), ("a", a)):
        adapted.switch(name)
        assert torch.equal(out(model), expected) and adapted.active == name
        trains = {id(p) for p in model.parameters() if p.requires_grad}
        assert trains == {id(p) for p in adapted.trained().values()}
    adapted.deactivate()
    assert torch.equal(out(model), base) and not any(p.requires_grad for p in model.parameters())
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == storage
    adapted.switch("a")
    adapted.delete("a")
    assert torch.equal(out(model), base) and list(adapted.adapters) == ["b"]
    adapted.switch("b")
    assert torch.equal(out(model), b)
    adapted.deactivate()
    assert not any("adapter" in name for name, _ in model.named_modules())


def test_errors_of_names() -> None:
    adapted = attach(tiny(), LoRA(r=4), name="a")
    with pytest.raises(VariantError, match="there is an adapter 'a' already"):
        adapted.add("a", LoRA())
    for act in (adapted.switch, adapted.delete):
        with pytest.raises(VariantError, match="no adapter 'b'; there are a"):
            act("b")
    adapted.delete("a")
    with pytest.raises(VariantError, match="no adapter is active"):
        adapted.count()


def test_a_failed_add_leaves_the_active_adapter() -> None:
    adapted = attach(tiny(), LoRA(r=4), name="a")
    train(adapted)
    before = out(adapted.model)
    for variant, says in ((LoRA(r=99), "r=99"), (LoRA(target="nothing"), "matches no linear map")):
        with pytest.raises(VariantError, match=says):
            adapted.add("b", variant)
        assert adapted.active == "a" and list(adapted.adapters) == ["a"]
        assert torch.equal(out(adapted.model), before) and all(p.requires_grad for p in adapted.trained().values())


@pytest.mark.parametrize("variant", [LoRA(r=4), Top(), DoRA(r=4)])
def test_disabled_is_the_base_and_the_head(variant) -> None:
    model = tiny()
    base = out(model)
    adapted = attach(model, variant)
    with torch.no_grad():
        for layer in adapted.layers:
            layer.lora_B.add_(0.1)
    moved = out(model)
    for merged in (False, True):
        if merged:
            adapted.merge()
        with adapted.disabled():
            assert torch.equal(out(model), base)
        assert torch.allclose(out(model), moved, atol=1e-5) and not torch.allclose(moved, base, atol=1e-3)
    adapted.enable(False)
    adapted.merge()
    assert torch.allclose(out(model), moved, atol=1e-5), "merging folds what is there, disabled or not"
    adapted.unmerge()
    assert torch.equal(out(model), moved)


# ---- merging --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [DROPOUT, Top(), DoRA(r=4)])
@pytest.mark.parametrize("kind", ["plain", FUSED, CONV1D])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_merge_and_unmerge(variant, kind: str, dtype: torch.dtype) -> None:
    model = tiny(kind).to(dtype)
    adapted = attach(model, variant)
    train(adapted)
    before, state = out(model), {k: t.clone() for k, t in model.state_dict().items()}
    model.train()  # dropout must not get into the merged weights
    reported = adapted.merge()
    merged = out(model)
    assert not any(m.adapter.enabled for m in model.modules() if hasattr(m, "adapter"))
    assert reported < {torch.float64: 1e-12}.get(dtype, 1e-4)
    assert torch.allclose(merged.float(), before.float(), atol=0.1 if dtype == torch.bfloat16 else 1e-4)
    assert adapted.merge() == 0.0 and torch.equal(out(model), merged), "merging again changes nothing"
    adapted.enable()
    assert torch.equal(out(model), merged), "nor does enabling what is merged"
    adapted.unmerge()
    adapted.unmerge()
    assert torch.equal(out(model), before)
    assert all(torch.equal(t, state[k]) for k, t in model.state_dict().items())


def test_merging_is_no_side_effect_of_eval() -> None:
    model = tiny()
    adapted = attach(model, LoRA(r=4))
    train(adapted)
    weights = fingerprint(model)
    model.eval().train().eval()
    assert fingerprint(model) == weights


def test_switching_and_saving_unmerge_first(tmp_path) -> None:
    model = tiny()
    adapted = attach(model, LoRA(r=4), name="a")
    train(adapted)
    a = out(model)
    base = fingerprint(model, set(adapted.head))
    adapted.merge()
    assert fingerprint(model, set(adapted.head)) != base
    save_adapter(adapted, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["base"]["fingerprint"] == base
    adapted.merge()
    adapted.add("b", LoRA(r=2))
    assert fingerprint(model, set(adapted.head)) == base
    adapted.switch("a")
    assert torch.equal(out(model), a)


def test_tied_weights_stay_tied_and_are_not_merged() -> None:
    model = tiny()
    maps = model.base_model["layers"][0].self_attn
    maps["k_proj"].weight = maps["q_proj"].weight
    adapted = attach(model, LoRA(r=4))
    train(adapted)
    before = out(model)
    assert maps["k_proj"].weight is maps["q_proj"].weight
    with pytest.raises(VariantError, match=r"cannot merge into .*q_proj.weight: the same tensor is .*k_proj.weight"):
        adapted.merge()
    assert torch.equal(out(model), before), "and nothing was merged before it was noticed"


def test_what_cannot_be_merged_says_so() -> None:
    @dataclass
    class Stubborn(LoRA):
        name = "stubborn"
        mergeable = False

    adapted = attach(tiny(), Stubborn(r=4))
    with pytest.raises(VariantError, match="stubborn cannot be merged"):
        adapted.merge()
    assert attach(tiny(), Full()).merge() == 0.0


# ---- copies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda handle: pickle.loads(pickle.dumps(handle))])
def test_a_copied_handle_is_independent(how) -> None:
    adapted = attach(tiny(FUSED), LoRA(r=4), name="a")
    train(adapted)
    a = out(adapted.model)
    adapted.add("b", Top())
    train(adapted, 1)
    b = out(adapted.model)
    twin = how(adapted)
    train(adapted, 2)
    assert twin.model is not adapted.model and torch.equal(out(twin.model), b)
    twin.merge()
    twin.switch("a")
    assert torch.equal(out(twin.model), a)
    twin.deactivate()
    assert torch.equal(out(twin.model), out(tiny(FUSED)))
    moved = out(adapted.model)
    adapted.merge()
    assert torch.allclose(out(adapted.model), moved, atol=1e-5)


@pytest.mark.slow
def test_one_graph_on_slices_in_low_precision() -> None:
    """Slices are put together again without a break in the graph, with the switch to autocast in it."""
    model = tiny(CONV1D).bfloat16()
    train(attach(model, LoRA(r=4)))
    expected = out(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(X.bfloat16()).float(), expected.float(), atol=0.05)


# ---- transformers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_save_pretrained_writes_a_plain_model(name: str, tmp_path) -> None:
    model, batch = MODELS[name](), inputs(name)
    adapted = attach(model, LoRA(r=4))
    train(adapted)

    def logits(of: nn.Module) -> Tensor:
        with torch.no_grad():
            return of.eval()(**batch).logits

    adapted_logits = logits(model)
    with adapted.disabled():
        base_logits = logits(model)
    model.save_pretrained(tmp_path / "base")
    assert not any("adapter" in key for key in load_file(tmp_path / "base" / "model.safetensors"))
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "base")), base_logits)
    adapted.merge()
    model.save_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(type(model).from_pretrained(tmp_path / "merged")), adapted_logits, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_architecture_trains_merges_and_round_trips(name: str, dtype: torch.dtype, tmp_path) -> None:
    def cast(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: t.to(dtype) if t.is_floating_point() else t for k, t in batch.items()}

    model, batch = MODELS[name]().to(dtype), cast(inputs(name))
    adapted = attach(model, LoRA(r=4, target="all-linear"))
    train(adapted)
    model(**batch).logits.float().square().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in adapted.trained().values())
    optimizer = torch.optim.SGD(adapted.param_groups(1e-3))
    optimizer.step()
    model.eval()
    with torch.no_grad():
        before = model(**batch).logits
        adapted.merge()
        merged = model(**batch).logits
        error = (merged - before).float().norm() / before.float().norm()
        assert error < (0.1 if dtype == torch.bfloat16 else 1e-4)
        save_adapter(adapted, tmp_path)
        loaded = load(MODELS[name]().to(dtype).eval(), tmp_path, strict=True)
        assert torch.equal(loaded.model(**batch).logits, before)


# ---- counts and groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "size", "variant", "millions"),
    [
        # LoRA paper, tables 2 and 3: trainable parameters, the head left out (GPT-2 M: 0.35 there)
        ("roberta", dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12), LoRA(r=8), 0.3),
        ("roberta", dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16), LoRA(r=8), 0.8),
        ("deberta-v2", dict(hidden_size=1536, num_hidden_layers=48, num_attention_heads=24), LoRA(r=16), 4.7),
        ("gpt2", dict(n_embd=1024, n_layer=24, n_head=16), LoRA(r=4), 0.4),
    ],
)
def test_counts_are_the_papers(architecture: str, size: dict, variant: LoRA, millions: float) -> None:
    with torch.device("meta"):
        model = _untouched(architecture, size)
    count = attach(model, variant).count()
    assert round(count["adapter"] / 1e6, 1) == millions
    width, depth = [v for k, v in size.items() if k in ("hidden_size", "n_embd", "num_hidden_layers", "n_layer")]
    assert count["adapter"] == depth * 2 * variant.r * (width + width)


def _untouched(architecture: str, size: dict) -> nn.Module:
    config = type(MODELS[architecture]().config)(**size, num_labels=2)
    return type(MODELS[architecture]())(config)


def test_counts_of_head_adapter_and_total() -> None:
    total = sum(p.numel() for p in tiny().parameters())
    head = 3 * 16 + 3
    added = 4 * 4 * (16 + 16)
    assert attach(tiny(), LoRA(r=4)).count() == {"adapter": added, "head": head, "total": total + added}
    assert attach(tiny(), Full()).count() == {"adapter": total - head, "head": head, "total": total}
    assert attach(tiny(), Head()).count() == {"adapter": 0, "head": head, "total": total}


@pytest.mark.parametrize("variant", [LoRA(r=4), Full(), Head(), Biases()])
def test_groups_hold_each_trained_tensor_once(variant) -> None:
    adapted = attach(tiny(), variant)
    groups = adapted.param_groups(1e-3, head_lr=5e-3, weight_decay=0.1)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in adapted.trained().values()}
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rate[id(adapted.model.score.weight)] == (5e-3, 0.1)
    assert rate[id(adapted.model.score.bias)] == (5e-3, 0.0), "no decay on what is narrow and trains in place"
    for name, tensor in adapted.trained().items():
        if name not in adapted.head:
            assert math.isclose(rate[id(tensor)][0], 1e-3)
            assert rate[id(tensor)][1] == (0.1 if tensor.ndim > 1 else 0.0), name
