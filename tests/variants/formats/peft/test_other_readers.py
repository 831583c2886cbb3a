"""PEFT folders that hold for every reader: one scaling, tasks that PEFT can call, tied embeddings, exact LoRA."""

import json
import math
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.support.models import MODELS, inputs
from tests.support.outside_variants import PiSSA
from tests.support.peft_files import CONFIG, TENSORS, by_peft, upstream
from tests.support.tiny import Off, gpt2, logits, roberta, train, trained
from variants import AdaLoRA, AdapterLayer, DoRA, LoRA, Variant, VariantError, VeRA, attach, convert, formats
from variants.formats import peft
from variants.formats.native import save_adapter
from variants.formats.peft import methods
from variants.layer import LowRank
from variants.registry import resolve

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:PEFT before 0.21:UserWarning")


def causal(tie: bool = False, vocabulary: int = 50, seed: int = 0):
    """A LLaMA for text with grouped queries: maps of two shapes in one attention."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tie, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(config).eval()


def text(model, seed: int = 1):
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return model(input_ids=torch.randint(4, 50, (2, 6), generator=rng)).logits


# ---- one scaling (vllm #9280, #6250, PR 6909; LlamaFactory #9545) ---------------------------------------------


@torch.no_grad()
def by_vllm(model, folder):
    """vLLM's arithmetic: one factor from the configuration's alpha and rank, whatever the patterns say."""
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / TENSORS)
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    for key in [key for key in tensors if key.endswith("lora_A.weight")]:
        assert len(tensors[key]) <= config["r"], "vLLM makes room for the configuration's rank"
        module = model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        delta = scaling * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
        module.weight += delta.t() if hasattr(module, "nf") else delta
    for key in [key for key in tensors if "lora_" not in key]:
        model.get_parameter(key.removeprefix("base_model.model.")).copy_(tensors[key])
    return model


SCALED = {
    "ranks": LoRA(r=4, alpha=8, per_layer={"*.1.*": {"r": 2}}),
    "alphas": LoRA(r=4, alpha=8, per_layer={"*.1.*": {"alpha": 3.0}}),
    "larger ranks": LoRA(r=2, alpha=8, target="all-linear", per_layer={"*.1.*": {"r": 4}, "*.0.*": {"r": 3}}),
    "rslora and ranks": LoRA(r=4, alpha=8, rslora=True, per_layer={"*.1.*": {"r": 2, "alpha": 5.0}}),
}


@pytest.mark.parametrize("variant", SCALED.values(), ids=SCALED)
@pytest.mark.parametrize("build", [roberta, gpt2], ids=["roberta", "gpt2"])
def test_a_reader_of_one_scaling_computes_the_same(build, variant, tmp_path):
    adapted = trained(build(), variant)
    peft.save(adapted, tmp_path)
    assert (logits(by_vllm(build(), tmp_path)) - logits(adapted.model)).abs().max() < 1e-5
    assert (logits(by_peft(build(), tmp_path)) - logits(adapted.model)).abs().max() < 1e-5
    assert (logits(formats.load(build(), tmp_path).model) - logits(adapted.model)).abs().max() < 1e-5


def test_a_combined_adapter_has_the_largest_rank_in_its_configuration(tmp_path):
    adapted = trained(roberta(), LoRA(r=4, alpha=8))
    adapted.add("b", LoRA(r=2, alpha=4, target="all-linear"))
    train(adapted.trained(), 3)
    adapted.combine({"default": 0.5, "b": 1.5}, "sum")
    peft.save(adapted, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["r"] == 6
    assert (logits(by_vllm(roberta(), tmp_path)) - logits(adapted.model)).abs().max() < 1e-5


# ---- tasks (peft #1988, #1596) --------------------------------------------------------------------------------


def test_no_task_that_peft_cannot_call(tmp_path):
    """PEFT's class of SEQ_2_SEQ_LM calls with input_ids, which a model of speech does not take."""
    shape = {"d_model": 16, "decoder_start_token_id": 0, "vocab_size": 50, "pad_token_id": 1}
    shape |= {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    shape |= {f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")} | {"num_mel_bins": 4, "max_source_positions": 6}
    config = transformers.WhisperConfig(**shape)

    def whisper():
        torch.manual_seed(0)
        return transformers.WhisperForConditionalGeneration(config).eval()

    sound = {"input_features": torch.randn(2, 4, 12), "decoder_input_ids": torch.ones(2, 3, dtype=torch.long)}
    adapted = trained(whisper(), LoRA(r=2))
    save_adapter(adapted, tmp_path / "ours")
    for folder in (peft.save(adapted, tmp_path / "peft"), tmp_path / "converted"):
        if not folder.exists():
            convert.convert(tmp_path / "ours", folder, "peft")
        assert json.loads((folder / CONFIG).read_text())["task_type"] is None
        with torch.no_grad():
            assert torch.allclose(by_peft(whisper(), folder)(**sound).logits, adapted.model(**sound).logits, atol=1e-5)


def test_tasks_that_peft_can_call_are_named(tmp_path):
    for build, task in ((roberta, "SEQ_CLS"), (causal, "CAUSAL_LM"), (MODELS["vit"], None)):
        folder = peft.save(trained(build(), LoRA(r=2)), tmp_path / build().__class__.__name__)
        assert json.loads((folder / CONFIG).read_text())["task_type"] == task
    with torch.no_grad():
        by_peft(MODELS["vit"](), folder)(**inputs("vit"))


# ---- tied and resized embeddings (peft #1300, #1457, #1700, #2898) ----------------------------------------------


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_trained_embeddings_of_a_resized_base(tie, tmp_path):
    def wider(seed):
        model = causal(tie)
        torch.manual_seed(seed)
        model.resize_token_embeddings(56)
        return model.eval()

    head = ["model.embed_tokens.weight"] + ([] if tie else ["lm_head.weight"])
    adapted = attach(wider(1), LoRA(r=2), head=head)
    train(adapted.trained(), 1)
    save_adapter(adapted, tmp_path / "ours")
    peft.save(adapted, tmp_path / "peft")
    convert.convert(tmp_path / "ours", tmp_path / "converted", "peft")
    for folder in (tmp_path / "peft", tmp_path / "converted"):
        assert torch.allclose(text(by_peft(wider(2), folder)), text(adapted.model), atol=1e-5)
        assert torch.allclose(text(formats.load(wider(2), folder).model), text(adapted.model), atol=1e-5)
    with pytest.raises(VariantError, match=r"\(56, 16\) in the file and \(50, 16\) in the model"):
        formats.load(causal(tie), tmp_path / "peft")


def test_the_frozen_weight_that_peft_writes_of_an_adapted_output_map_is_passed_over(tmp_path):
    """PEFT saves ``lm_head.base_layer.weight`` beside an adapter on lm_head; of another base it is refused."""
    options = {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    theirs = upstream.get_peft_model(causal(), upstream.LoraConfig(r=4, **options)).eval()
    theirs.save_pretrained(tmp_path, save_embedding_layers=True)
    assert any("base_layer" in key for key in load_file(tmp_path / TENSORS))
    assert torch.allclose(text(formats.load(causal(), tmp_path).model), text(theirs), atol=1e-5)
    other = causal()
    other.lm_head.weight.data += 1
    with pytest.raises(VariantError, match=r"lm_head.base_layer.weight"):
        formats.load(other, tmp_path)


@pytest.mark.parametrize("trained_module", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("tying", [False, True], ids=["apart", "ensure_weight_tying"])
def test_peft_trains_a_tied_embedding_apart_unless_asked(tying, trained_module, tmp_path):
    """What PEFT trained apart is not one tensor any more: on a tied model it is refused, not computed otherwise."""
    options = {"target_modules": ["q_proj"], "modules_to_save": [trained_module], "init_lora_weights": False}
    theirs = upstream.get_peft_model(
        causal(True), upstream.LoraConfig(ensure_weight_tying=tying, task_type="CAUSAL_LM", **options)
    )
    train({k: p for k, p in theirs.named_parameters() if "modules_to_save" in k}, 1)
    theirs.eval().save_pretrained(tmp_path)
    if tying:
        assert torch.allclose(text(formats.load(causal(True), tmp_path).model), text(theirs), atol=1e-5)
    else:
        with pytest.raises(VariantError, match="and this model ties them: load it on a model with tie_word"):
            formats.load(causal(True), tmp_path)


# ---- VeRA over several shapes (peft PR 1564, PR 1817), and any declared low-rank update as LoRA ------------------


def test_vera_of_several_shapes_that_peft_wrote_goes_back_as_vera(tmp_path):
    theirs = upstream.get_peft_model(causal(), upstream.VeraConfig(r=20, target_modules=["q_proj", "v_proj"]))
    train({k: p for k, p in theirs.named_parameters() if "vera_lambda" in k}, 1)
    theirs.eval().save_pretrained(tmp_path / "theirs")
    ours = formats.load(causal(), tmp_path / "theirs")
    peft.save(ours, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / CONFIG).read_text())["peft_type"] == "VERA"
    for model in (ours.model, by_peft(causal(), tmp_path / "ours")):
        assert torch.allclose(text(model), text(theirs), atol=1e-5)


def test_vera_of_several_shapes_of_our_own_goes_as_lora(tmp_path):
    adapted = trained(causal(), VeRA(r=12))
    with pytest.warns(UserWarning, match="each shape has its own: written as LoRA, which computes the same"):
        peft.save(adapted, tmp_path)
    assert load_file(tmp_path / TENSORS)["base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"].shape[0] == 8
    for model in (by_peft(causal(), tmp_path), by_vllm(causal(), tmp_path), formats.load(causal(), tmp_path).model):
        assert torch.allclose(text(model), text(adapted.model), atol=1e-5)


class XS(AdapterLayer):
    """LoRA-XS: a matrix trains between frozen factors; scaled, with a vector of outputs."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.register_buffer("A", torch.randn(config.r, site.in_features, generator=rng) / 4)
        self.register_buffer("B", torch.randn(site.out_features, config.r, generator=rng) / 4)
        self.R = torch.nn.Parameter(torch.zeros(config.r, config.r))
        self.o = torch.nn.Parameter(torch.ones(site.out_features))

    def low_rank(self):
        return LowRank(self.A, self.B, 0.7, inner=self.R, outer=self.o)


class LoRAXS(Variant):
    name, r, layer, size = "xs", 3, XS, "r"


EXACT = {
    "a method from outside": (gpt2, LoRAXS()),
    "vera on slices": (gpt2, VeRA(r=5)),
    "adalora on slices": (gpt2, AdaLoRA(init_r=4, target_r=2)),
    "adalora of two ranks": (roberta, AdaLoRA(init_r=4, target_r=2, per_layer={"*.0.*": {"init_r": 3}})),
    "vera of two ranks": (roberta, VeRA(r=4, per_layer={"*.0.*": {"r": 3}})),
    "a first delta taken off": (roberta, Off(r=2)),
    "rank 40 on 16 x 16": (roberta, VeRA(r=40)),
}


@pytest.mark.parametrize("build, variant", EXACT.values(), ids=EXACT)
def test_any_declared_low_rank_update_goes_as_exact_lora(build, variant, tmp_path):
    adapted = trained(build(), variant)
    before = {key: tensor.clone() for key, tensor in adapted.state_dict().items()}
    expected = logits(adapted.model)
    assert (expected - logits(build())).abs().max() > 0.05
    if variant != EXACT["rank 40 on 16 x 16"][1]:
        with pytest.raises(VariantError, match="as LoRA it computes the same: --as lora, or as_lora=True"):
            peft.save(adapted, tmp_path)
        assert not list(tmp_path.iterdir())
    peft.save(adapted, tmp_path, as_lora=True)
    for model in (by_peft(build(), tmp_path), by_vllm(build(), tmp_path), formats.load(build(), tmp_path).model):
        assert (logits(model) - expected).abs().max() < 1e-4
    assert all(torch.equal(tensor, before[key]) for key, tensor in adapted.state_dict().items())


@pytest.mark.parametrize("name", methods.LORA)
def test_methods_of_which_peft_has_lora_go_as_exact_lora(name, tmp_path):
    """Of twice the rank where a first update is off the base, and of all cycles' ranks."""
    adapted = trained(roberta(), resolve(name)(r=2))
    expected = logits(adapted.model)
    assert (expected - logits(roberta())).abs().max() > 0.05
    peft.save(adapted, tmp_path, as_lora=True)
    rank = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))["r"]
    assert rank == {"relora": 6}.get(name, 4 if adapted.variant.subtract_initial else 2)
    assert (logits(by_peft(roberta(), tmp_path)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("build, variant", [(gpt2, DoRA(r=4)), (roberta, PiSSA(r=2))], ids=["dora", "pissa"])
def test_a_refusal_names_the_way_where_no_exact_one_is_declared(build, variant, tmp_path):
    adapted = trained(build(), variant)
    expected = logits(adapted.model)
    for as_lora in (False, True):
        with pytest.raises(VariantError, match=r"a LoRA near it: --as lora --rank R, or as_lora=AsLoRA\(R\)"):
            peft.save(adapted, tmp_path, as_lora)
    peft.save(adapted, tmp_path, peft.AsLoRA(rank=16))
    assert (logits(by_peft(build(), tmp_path)) - expected).abs().max() < 1e-4


def test_the_command_writes_exact_lora(tmp_path, capsys):
    roberta().save_pretrained(tmp_path / "base")
    adapted = trained(roberta(), AdaLoRA(init_r=4, target_r=2, per_layer={"*.0.*": {"init_r": 3}}))
    save_adapter(adapted, tmp_path / "ours")
    words = [str(tmp_path / "ours"), str(tmp_path / "peft"), "--to", "peft", "--model", str(tmp_path / "base")]
    assert convert.main(words) == 2 and "--as lora" in capsys.readouterr().err
    assert convert.main([*words, "--as", "lora"]) == 0 and "as LoRA" in capsys.readouterr().out
    with warnings.catch_warnings():
        assert (logits(by_peft(roberta(), tmp_path / "peft")) - logits(adapted.model)).abs().max() < 1e-4
    assert convert.main([*words[:3], "ours", "--as", "lora"]) == 2
