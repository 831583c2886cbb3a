"""BitFit, bottleneck adapters, prefixes and FT-Top2: against computations written out here, and against PEFT."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.models import MODELS, inputs
from variants import (
    AdapterD,
    AdapterH,
    AdapterL,
    AdapterP,
    BitFit,
    FTTop2,
    PrefixEmbed,
    PrefixLayer,
    PrefixTuning,
    VariantError,
    attach,
    load,
    resolve,
)
from variants.check import FAILED, check, properties
from variants.contract.models import shift
from variants.formats.native import save_adapter

P = 3
VARIANTS = {
    "bitfit": {},
    "ft_top2": {"top": 1},
    "adapter_h": {"r": 4},
    "adapter_l": {"r": 4},
    "adapter_p": {"r": 4},
    "adapter_d": {"r": 4},
    "prefix_embed": {"p": P},
    "prefix_layer": {"p": P},
    "prefix_tuning": {"p": P},
}
TEXT_ENCODERS = ("roberta", "bert", "distilbert", "deberta-v2")
TEXT = (*TEXT_ENCODERS, "gpt2", "opt", "llama")


def trained(model: nn.Module, variant, seed: int = 0):
    """The variant as if trained: every tensor of it but the head's away from its start, by much."""
    adapted = attach(model, variant, seed)
    for index, (name, tensor) in enumerate(adapted.trained().items()):
        if name not in adapted.head:
            shift(tensor, index, 0.5)
    return adapted


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).logits


# ---- every architecture ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TEXT)
def test_every_architecture_trains_saves_and_reloads(name, variant, dtype, tmp_path) -> None:
    model = MODELS[name]().to(dtype)
    batch = inputs(name)
    fresh, base = copy.deepcopy(model), logits(model, batch)
    adapted = attach(model, resolve(variant)(**VARIANTS[variant]), seed=0)
    if adapted.variant.identity_at_start:
        assert torch.equal(logits(model, batch), base)
    optimizer = torch.optim.AdamW(adapted.param_groups(0.05))
    for _ in range(2):
        output = model(**batch).logits.float()
        F.cross_entropy(output, torch.arange(len(output))).backward()
        assert all(p.grad is not None for p in adapted.trained().values())
        optimizer.step()
        optimizer.zero_grad()
    after = logits(model, batch)
    assert after.shape == base.shape and after.dtype == base.dtype
    with adapted.disabled():
        assert not torch.allclose(logits(model, batch).float(), after.float(), atol=1e-3) or not adapted.layers
    save_adapter(adapted, tmp_path)
    load(fresh, tmp_path, strict=True)
    assert torch.equal(logits(fresh, batch), after)
    adapted.deactivate()
    assert torch.equal(logits(model, batch), base), "the model is as it was"


OTHERS = [AdapterD(r=4, share=True), AdapterD(r=4, drop=1), AdapterL(r=4, layers="1"), PrefixLayer(p=1)]


@pytest.mark.parametrize("variant", OTHERS, ids=str)
def test_the_contract_holds_for_other_options(variant) -> None:
    slow = {"DDP", "compile", "learns", "no host sync"}
    shared = {"determinism"} if getattr(variant, "share", False) else set()  # one adapter, named after the first block
    failed = [f for f in check(variant, [n for n in properties() if n not in slow | shared]) if f.status == FAILED]
    assert not failed


# ---- bottlenecks: a post-LN and a pre-LN block written out -----------------------------------------------------


def bottleneck(tensors: dict[str, Tensor], where: str, h: Tensor, activation=F.relu) -> Tensor:
    at = {name: tensors[f"{where}.{name}"] for name in ("down", "down_bias", "up", "up_bias")}
    return activation(h @ at["down"].T + at["down_bias"]) @ at["up"].T + at["up_bias"]


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = w[f"{name}.weight"]
    return x @ (weight if "c_" in name else weight.T) + w[f"{name}.bias"]


def norm(w: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int = 2) -> Tensor:
    """q (B, T, d); k, v (B, S, d); mask (B, T, S), True where allowed."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~mask[:, None], -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@torch.no_grad()
def roberta_reference(
    model, batch, after_attention=None, after_ffn=None, end=None, keys=None, values=None, positions=None
) -> Tensor:
    """RoBERTa's classifier from its weights alone, with hooks for what a method adds.

    Args:
        after_attention, after_ffn: (layer, h) -> h on a projection's output, before the residual.
        end: (layer, residual stream, LN) -> hidden states at the end of a block.
        keys, values: (layer, the maps' weights) -> rows (p, d) before those of the text.
        positions: of the tokens, without RoBERTa's own offset.
    """
    w, eps = model.state_dict(), model.config.layer_norm_eps
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    where = torch.arange(ids.shape[1]) if positions is None else positions
    e = "roberta.embeddings"
    h = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][0]
    h = norm(w, f"{e}.LayerNorm", h + w[f"{e}.position_embeddings.weight"][where + 2], eps)
    for i in range(model.config.num_hidden_layers):
        at = f"roberta.encoder.layer.{i}"
        q, k, v = (linear(w, f"{at}.attention.self.{name}", h) for name in ("query", "key", "value"))
        allowed = mask[:, None].expand(-1, ids.shape[1], -1)
        if keys:
            more = keys(i), values(i)
            k, v = (torch.cat([p.expand(len(ids), -1, -1), t], 1) for p, t in zip(more, (k, v), strict=True))
            allowed = torch.cat([torch.ones(*allowed.shape[:2], len(more[0]), dtype=torch.bool), allowed], -1)
        y = linear(w, f"{at}.attention.output.dense", attention(q, k, v, allowed))
        h = norm(w, f"{at}.attention.output.LayerNorm", h + (after_attention(i, y) if after_attention else y), eps)
        y = linear(w, f"{at}.output.dense", F.gelu(linear(w, f"{at}.intermediate.dense", h)))
        u = h + (after_ffn(i, y) if after_ffn else y)

        def last(x, at=at):
            return norm(w, f"{at}.output.LayerNorm", x, eps)

        h = end(i, u, last) if end else last(u)
    return linear(w, "classifier.out_proj", torch.tanh(linear(w, "classifier.dense", h[:, 0])))


@torch.no_grad()
def gpt2_reference(model, batch, end=None, keys=None, values=None, shift_by=0) -> Tensor:
    """GPT-2's classifier from its weights alone; ``end``: (layer, residual stream) -> hidden states."""
    w, eps = model.state_dict(), model.config.layer_norm_epsilon
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    size = ids.shape[1]
    h = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][torch.arange(size) + shift_by]
    for i in range(model.config.n_layer):
        at = f"transformer.h.{i}"
        q, k, v = linear(w, f"{at}.attn.c_attn", norm(w, f"{at}.ln_1", h, eps)).chunk(3, -1)
        allowed = mask[:, None] & torch.ones(size, size, dtype=torch.bool).tril()
        if keys:
            more = keys(i), values(i)
            k, v = (torch.cat([p.expand(len(ids), -1, -1), t], 1) for p, t in zip(more, (k, v), strict=True))
            allowed = torch.cat([torch.ones(*allowed.shape[:2], len(more[0]), dtype=torch.bool), allowed], -1)
        h = h + linear(w, f"{at}.attn.c_proj", attention(q, k, v, allowed))
        up = F.gelu(linear(w, f"{at}.mlp.c_fc", norm(w, f"{at}.ln_2", h, eps)), approximate="tanh")
        h = h + linear(w, f"{at}.mlp.c_proj", up)
        h = end(i, h) if end else h
    h = norm(w, "transformer.ln_f", h, eps)
    last = mask.long().sum(1) - 1
    return h[torch.arange(len(ids)), last] @ w["score.weight"].T


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-5 * (1 + b.abs().max().item()), rtol=0)


def test_the_references_are_the_models() -> None:
    for name, reference in (("roberta", roberta_reference), ("gpt2", gpt2_reference)):
        model, batch = MODELS[name](), inputs(name)
        assert close(reference(model, batch), logits(model, batch))


def test_adapter_h_is_houlsbys() -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    adapted = trained(model, AdapterH(r=4))
    t, at = adapted.adapter.tensors(), "roberta.encoder.layer"
    expected = roberta_reference(
        model,
        batch,
        after_attention=lambda i, y: y + bottleneck(t, f"{at}.{i}.attention.output.dense", y, F.gelu),
        after_ffn=lambda i, y: y + bottleneck(t, f"{at}.{i}.output.dense", y, F.gelu),
    )
    assert close(logits(model, batch), expected)


def test_adapter_p_is_pfeiffers_before_and_after_the_layer_norm() -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    t = trained(model, AdapterP(r=4)).adapter.tensors()
    expected = roberta_reference(
        model,
        batch,
        end=lambda i, u, ln: ln(u + bottleneck(t, f"roberta.encoder.layer.{i}.output.LayerNorm", ln(u))),
    )
    assert close(logits(model, batch), expected)


def test_adapter_p_without_a_last_layer_norm() -> None:
    model, batch = MODELS["gpt2"](), inputs("gpt2")
    t = trained(model, AdapterP(r=4)).adapter.tensors()
    expected = gpt2_reference(model, batch, end=lambda i, h: h + bottleneck(t, f"transformer.h.{i}", h))
    assert close(logits(model, batch), expected)


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_adapter_l_is_lins(name) -> None:
    model, batch = MODELS[name](), inputs(name)
    t = trained(model, AdapterL(r=4)).adapter.tensors()

    def add(where: str, h: Tensor) -> Tensor:
        own = {"own.weight": t[f"{where}.norm_weight"], "own.bias": t[f"{where}.norm_bias"]}
        return h + bottleneck(t, where, norm(own, "own", h, 1e-5))

    if name == "gpt2":
        expected = gpt2_reference(model, batch, end=lambda i, h: add(f"transformer.h.{i}", h))
    else:
        expected = roberta_reference(
            model, batch, end=lambda i, u, ln: add(f"roberta.encoder.layer.{i}.output.LayerNorm", ln(u))
        )
    assert close(logits(model, batch), expected)


def test_layer_norms_train_on_request() -> None:
    plain, with_norms = (attach(MODELS["roberta"](), AdapterH(r=4, norms=on)).count() for on in (False, True))
    assert with_norms["adapter"] - plain["adapter"] == 2 * 2 * 2 * 16  # blocks, LayerNorms of each, weight and bias, d
    one = attach(MODELS["roberta"](), AdapterH(r=4, norms=True, layers="1"))
    assert {name for name in one.adapter.in_place if name not in one.head} == {
        f"roberta.encoder.layer.1.{part}output.LayerNorm.{kind}"
        for part in ("attention.", "")
        for kind in ("weight", "bias")
    }
    with pytest.raises(VariantError, match="no LayerNorm to train"):
        attach(MODELS["llama"](), AdapterH(r=4, norms=True))


def test_adapterdrop_leaves_out_the_lowest_in_training_alone() -> None:
    model, batch = MODELS["roberta"](num_hidden_layers=6), inputs("roberta")
    adapted = trained(model, AdapterD(r=4), seed=5)
    model.eval()
    evaluated, patterns = logits(model, batch), set()
    whole = {path: layer for path, layer in adapted.adapter.layers.items()}
    for step in range(1, 60):
        adapted.after_step(step, 100)
        dropped = [bool(layer.dropped) for layer in whole.values()]
        assert dropped == sorted(dropped, reverse=True) and not all(dropped), "the lowest ones, and never all"
        patterns.add(sum(dropped))
        assert torch.equal(logits(model, batch), evaluated), "evaluation uses all"
    assert patterns == set(range(6))
    model.train()
    for step in range(1, 5):
        adapted.after_step(step, 100)
        lowest = sum(bool(layer.dropped) for layer in whole.values())
        fewer = copy.deepcopy(model).eval()
        for layer in list(fewer.roberta.encoder.layer)[:lowest]:
            layer.output.LayerNorm.adapter.enabled = False
        assert close(logits(model, batch), logits(fewer, batch))


def test_adapterdrop_draws_from_the_runs_seed_and_the_step() -> None:
    """So that every rank draws the same, and a resumed run what it would have drawn."""

    def draws(seed: int) -> list[int]:
        adapted, numbers = attach(MODELS["roberta"](num_hidden_layers=6), AdapterD(r=4), seed), []
        for step in range(20):
            adapted.after_step(step, 20)
            numbers.append(sum(int(layer.dropped) for layer in adapted.layers))
        return numbers

    assert draws(5) == draws(5) != draws(6)


def test_adapterdrop_shares_one_adapter_and_drops_blocks() -> None:
    model, batch = MODELS["roberta"](num_hidden_layers=4), inputs("roberta")
    adapted = trained(model, AdapterD(r=4, share=True))
    assert adapted.count()["adapter"] == 2 * 16 * 4 + 4 + 16
    t, first = adapted.adapter.tensors(), "roberta.encoder.layer.0.output.LayerNorm"
    expected = roberta_reference(model, batch, end=lambda i, u, ln: ln(u + bottleneck(t, first, ln(u))))
    assert close(logits(model, batch), expected)
    dropped = attach(MODELS["roberta"](num_hidden_layers=4), AdapterD(r=4, drop=3))
    assert list(dropped.adapter.layers) == ["roberta.encoder.layer.3.output.LayerNorm"]
    with pytest.raises(VariantError, match="drop=4 leaves no block"):
        attach(MODELS["roberta"](num_hidden_layers=4), AdapterD(r=4, drop=4))
    with pytest.raises(VariantError, match="drop must be at least 0, not -1"):
        AdapterD(drop=-1)


# ---- prefixes -------------------------------------------------------------------------------------------------


def behind_the_first(length: int) -> Tensor:
    """Positions of the text where p tokens stand behind its first."""
    return torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(1, length) + P])


def test_prefix_tuning_is_li_and_liangs_keys_and_values() -> None:
    """The reference never computes hidden states of the prefix: it has keys and values alone."""
    model, batch = MODELS["roberta"](), inputs("roberta")
    t = trained(model, PrefixTuning(p=P)).adapter.tensors()
    expected = roberta_reference(
        model,
        batch,
        keys=lambda i: t[f"roberta.encoder.layer.{i}.attention.self.key.prefix"],
        values=lambda i: t[f"roberta.encoder.layer.{i}.attention.self.value.prefix"],
        positions=behind_the_first(batch["input_ids"].shape[1]),
    )
    assert close(logits(model, batch), expected)


def test_prefix_tuning_on_a_fused_map_is_pefts() -> None:
    peft = pytest.importorskip("peft")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "bos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**shape, eos_token_id=2)).eval()
    ours = copy.deepcopy(model)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
    theirs = peft.get_peft_model(model, config).eval()
    weight = theirs.prompt_encoder["default"].embedding.weight.detach()
    nn.init.normal_(weight)
    adapted = attach(ours, PrefixTuning(p=P))
    for i, at in enumerate(ours.transformer.h):
        for j, layer in enumerate(at.attn.c_attn.adapter.layers):
            layer.prefix.data.copy_(weight.view(P, 2, 2, 16)[:, i, j])  # tokens, blocks, key or value, d
    batch = inputs("gpt2")
    assert close(logits(ours, batch), logits(theirs, batch))
    with adapted.disabled():
        assert not close(logits(ours, batch), logits(theirs, batch))


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_prefix_layer_is_the_lora_papers_activations(name) -> None:
    """At each block the prefix gives the keys and values of trained activations; what it computes itself is lost."""
    model, batch = MODELS[name](), inputs(name)
    t, w = trained(model, PrefixLayer(p=P)).adapter.tensors(), model.state_dict()
    if name == "roberta":

        def part(which):
            at = "roberta.encoder.layer"
            return lambda i: linear(w, f"{at}.{i}.attention.self.{which}", t[f"{at}.{i}.prefix"])

        expected = roberta_reference(
            model,
            batch,
            keys=part("key"),
            values=part("value"),
            positions=behind_the_first(batch["input_ids"].shape[1]),
        )
    else:

        def part(which):
            def rows(i):
                at = f"transformer.h.{i}"
                return linear(w, f"{at}.attn.c_attn", norm(w, f"{at}.ln_1", t[f"{at}.prefix"], 1e-5)).chunk(3, -1)[
                    which
                ]

            return rows

        expected = gpt2_reference(model, batch, keys=part(1), values=part(2), shift_by=P)
    assert close(logits(model, batch), expected)


@pytest.mark.parametrize("name", ["roberta", "gpt2", "deberta-v2"])
def test_prefix_embed_is_a_few_more_words(name) -> None:
    """The same as a text in which those words stand, in a vocabulary that has them."""
    model, batch = MODELS[name](), inputs(name)
    plain = copy.deepcopy(model)
    (prefix,) = (t.detach() for t in trained(model, PrefixEmbed(p=P)).adapter.tensors().values())
    start = 0 if name == "gpt2" else 1
    table = plain.get_input_embeddings()
    new = torch.arange(P) + len(table.weight)
    table.weight = nn.Parameter(torch.cat([table.weight.detach(), prefix]))
    ids, mask = batch["input_ids"], batch["attention_mask"]

    def insert(t: Tensor, row: Tensor) -> Tensor:
        return torch.cat([t[:, :start], row.expand(len(t), -1), t[:, start:]], 1)

    longer = {"input_ids": insert(ids, new), "attention_mask": insert(mask, torch.ones(P, dtype=torch.long))}
    if name == "gpt2":  # its head looks for the last token, which the padding id tells it: give it the same
        hidden = plain.transformer(**longer).last_hidden_state[torch.arange(len(ids)), mask.sum(1) - 1 + P]
        assert close(logits(model, batch), plain.score(hidden).detach())
    else:
        assert close(logits(model, batch), logits(plain, longer))


@pytest.mark.parametrize("variant", [PrefixEmbed, PrefixLayer, PrefixTuning])
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
@torch.no_grad()
def test_prefixes_generate_with_a_cache(name, variant) -> None:
    """Token by token behind a cache gives what the whole text gives, padding on the left included."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS[name]().config).eval()
    for tensor in model.parameters():
        tensor.add_(0.2 * torch.randn(tensor.shape))
    ids = torch.randint(4, 50, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1, "num_beams": 3, "eos_token_id": 49}
    plain = model.generate(ids, attention_mask=mask, **options)
    adapted = trained(model, variant(p=P))
    texts = [model.generate(ids, attention_mask=mask, use_cache=on, **options) for on in (True, False)]
    assert torch.equal(*texts) and not torch.equal(texts[0], plain)
    with adapted.disabled():
        assert torch.equal(model.generate(ids, attention_mask=mask, **options), plain)


DECODERS = ("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "gpt_neox", "bloom", "falcon")


@pytest.mark.parametrize("variant", [PrefixEmbed, PrefixLayer, PrefixTuning])
@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_prefixes_work_behind_a_cache_of_other_decoders(name, variant) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS[name]().config).eval()
    for tensor in model.parameters():
        tensor.add_(0.2 * torch.randn(tensor.shape))
    ids = torch.randint(4, 50, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    plain = logits(model, batch)
    trained(model, variant(p=P))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1, "eos_token_id": 49}
    texts = [model.generate(**batch, use_cache=on, **options) for on in (True, False)]
    assert torch.equal(*texts) and not close(logits(model, batch), plain)


def test_a_prefix_needs_room() -> None:
    model = MODELS["roberta"]()  # 40 positions, of which RoBERTa leaves two out
    batch = inputs("roberta", length=30)
    attach(model, PrefixTuning(p=8))
    model(**batch)
    model = MODELS["roberta"]()
    attach(model, PrefixTuning(p=9))
    with pytest.raises(VariantError, match="30 tokens and a prefix of 9 are more than the 38 positions"):
        model(**batch)
    attach(model := MODELS["llama"](), PrefixTuning(p=64))  # no table of positions: no such limit
    model(**inputs("llama", length=30))


@pytest.mark.parametrize("name", ["t5", "vit"])
def test_prefixes_name_the_architectures_they_know(name) -> None:
    with pytest.raises(VariantError, match=f"a prefix is known for bert, .*llama, .*, not for {name}"):
        attach(MODELS[name](), PrefixEmbed(p=2))


# ---- what trains in place -------------------------------------------------------------------------------------


def test_bitfit_trains_every_bias_of_the_backbone() -> None:
    adapted = attach(model := MODELS["roberta"](), BitFit())
    names = {name for name in adapted.adapter.in_place if name not in adapted.head}
    assert names == {n for n, _ in model.named_parameters() if n.startswith("roberta.") and n.endswith(".bias")}
    assert adapted.count()["adapter"] == 2 * (6 * 16 + 24 + 2 * 16 - 16) + 16  # q k v o, up, down, 2 LN; embeddings' LN
    with pytest.raises(VariantError, match="has no bias vectors"):
        attach(MODELS["llama"](attention_bias=False, mlp_bias=False), BitFit())


def test_ft_top2_trains_the_last_two_blocks() -> None:
    adapted = attach(MODELS["gpt2"](n_layer=4), FTTop2())
    blocks = {name.split(".")[2] for name in adapted.adapter.in_place if name not in adapted.head}
    assert blocks == {"2", "3"}
    with pytest.raises(VariantError, match="top=5 is more than the 4 blocks"):
        attach(MODELS["gpt2"](n_layer=4), FTTop2(top=5))


@pytest.mark.parametrize("variant, option", [(AdapterH, "r"), (AdapterD, "r"), (PrefixLayer, "p"), (FTTop2, "top")])
def test_sizes_are_at_least_one(variant, option) -> None:
    with pytest.raises(VariantError, match=f"{option} must be at least 1, not 0"):
        variant(**{option: 0})


# ---- several on one base --------------------------------------------------------------------------------------


@torch.no_grad()
def test_rows_of_a_batch_by_adapters_of_several_kinds() -> None:
    model, batch = MODELS["deberta-v2"](), inputs("deberta-v2")  # its blocks return tuples
    adapted, alone = attach(model, AdapterL(r=4), name="l"), []
    adapted.add("h", AdapterH(r=4))
    for name in ("l", "h", None):
        adapted.switch(name) if name else adapted.deactivate()
        if name:
            for index, tensor in enumerate(adapted.adapter.tensors().values()):
                shift(tensor, index, 0.5)
        alone.append(logits(model, batch))
    with adapted.mixed(["l", "h", None]) as mixed:
        rows = logits(mixed, batch)
    for i, expected in enumerate(alone):
        assert close(rows[i], expected[i])
    adapted.add("prefix", PrefixEmbed(p=2))
    with pytest.raises(VariantError, match="'prefix' cannot share a batch"), adapted.mixed(["l", "h", "prefix"]):
        pass
