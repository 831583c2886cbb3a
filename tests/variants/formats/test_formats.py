"""Files of PEFT and loralib: PEFT itself computes our logits from what we write, and we PEFT's from what it writes."""

import json
import os
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.tiny import Off, gpt2, logits, roberta, train
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach, formats
from variants.adapters.adapted_model import Adapted
from variants.formats import loralib, peft
from variants.variant import Variant

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:PEFT before 0.21:UserWarning")
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
upstream = pytest.importorskip("peft", reason="PEFT is not installed")


def trained(model: nn.Module, variant: Variant) -> Adapted:
    adapted = attach(model, variant)
    train(adapted.trained(), 1)
    return adapted


def by_peft(model: nn.Module, folder: Path) -> nn.Module:
    """PEFT's own reading; it warns of any tensor that it finds no place for, or misses."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        return upstream.PeftModel.from_pretrained(model, folder).eval()


def written_by_peft(model: nn.Module, config, folder: Path) -> torch.Tensor:
    """Train and save with PEFT; the logits."""
    wrapped = upstream.get_peft_model(model, config)
    train({k: p for k, p in wrapped.named_parameters() if p.requires_grad}, 3)
    wrapped.save_pretrained(folder)
    return logits(wrapped)


OURS = {
    "lora": LoRA(r=4, alpha=6, dropout=0.1),
    "lora, rslora": LoRA(r=4, alpha=6, rslora=True, target="all-linear", layers="1"),
    "lora, by layer": LoRA(r=4, alpha=6, target="attn", per_layer={"*.1.*": {"r": 2, "alpha": 7.5}, "*.o*": {"r": 3}}),
    "lora, scaled apart": LoRA(r=4, alpha=6, rslora=True, per_layer={"*.v*": {"r": 2, "alpha": 9.0}}),
    "dora": DoRA(r=4, alpha=6, target="o,up"),
    "dora, by layer": DoRA(r=4, rslora=True, target="all-linear", per_layer={"*.1.*": {"r": 2, "alpha": 7.5}}),
    "vera": VeRA(r=20, target="o", projection_seed=3),
    "adalora": AdaLoRA(init_r=4, target_r=2, alpha=6, target="o,up", tinit=0.25),
}


# ---- PEFT --------------------------------------------------------------------------------------------------


OLD = tuple(map(int, upstream.__version__.split(".")[:2])) < (0, 21)


@pytest.fixture
def reads_banks(variant):
    """PEFT before 0.21 made VeRA's matrices anew from a seed of its own and ignored those in the file."""
    if OLD and variant.name == "vera":
        pytest.skip(f"PEFT {upstream.__version__} ignores VeRA's stored matrices; 0.21 reads them")


@pytest.mark.usefixtures("reads_banks")
@pytest.mark.parametrize("variant", OURS.values(), ids=OURS)
@pytest.mark.parametrize("build", [roberta, gpt2], ids=["roberta", "gpt2"])
def test_peft_computes_our_logits(build, variant, tmp_path):
    adapted = trained(build(), variant)
    expected = logits(adapted.model)
    assert (expected - logits(build())).abs().max() > 0.1
    peft.save(adapted, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["fan_in_fan_out"] == (build is gpt2)  # its maps are transposed
    assert (logits(by_peft(build(), tmp_path)) - expected).abs().max() < 1e-5
    again = formats.load(build(), tmp_path)
    assert (logits(again.model) - expected).abs().max() < 1e-5


@pytest.mark.usefixtures("reads_banks")
@pytest.mark.parametrize("variant", OURS.values(), ids=OURS)
def test_peft_would_write_the_same_files(variant, tmp_path):
    """Read by PEFT and saved by PEFT: the same tensors under the same names, and no option changed."""
    peft.save(trained(roberta(), variant), tmp_path / "ours")
    by_peft(roberta(), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / TENSORS) for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    configs = [json.loads((tmp_path / name / CONFIG).read_text()) for name in ("ours", "theirs")]
    for config in configs:
        config["target_modules"] = set(config["target_modules"])
        config["modules_to_save"] = set(config["modules_to_save"])
        config["base_model_name_or_path"] = config["base_model_name_or_path"] or None
    assert {key: configs[1].get(key, "missing") for key in configs[0]} == configs[0]


@pytest.mark.parametrize("variant", OURS.values(), ids=OURS)
def test_hyperparameters_survive(variant, tmp_path):
    """Those of training too, site by site; VeRA's random matrices come from the file instead of their seed."""
    adapted = trained(roberta(), variant)
    peft.save(adapted, tmp_path)
    again = formats.load(roberta(), tmp_path)
    elsewhere = {"target", "layers", "per_layer", "save_projection"}
    first, second = (
        {x.site.path: {k: v for k, v in x.config.options().items() if k not in elsewhere} for x in each.layers}
        for each in (adapted, again)
    )
    assert first == second


QV = ["query", "value"]
CLS = {"task_type": "SEQ_CLS"}
LORA = {"target_modules": QV, **CLS}
FUSED = {"target_modules": ["c_attn"], "fan_in_fan_out": True, **CLS}
PATTERNS = {"rank_pattern": {"0.attention.self.query": 2, "value": 3}, "alpha_pattern": {r"1\..*": 11}}
ADALORA = {"init_r": 4, "target_r": 2, "total_step": 100, "lora_alpha": 5}
THEIRS = {
    "lora": (roberta, upstream.LoraConfig(r=3, lora_alpha=5, **LORA)),
    "lora, fused": (gpt2, upstream.LoraConfig(r=3, lora_alpha=5, **FUSED)),
    "lora, patterns": (roberta, upstream.LoraConfig(r=4, use_rslora=True, **PATTERNS, **LORA)),
    "lora, one block": (roberta, upstream.LoraConfig(layers_to_transform=[1], **LORA)),
    "lora, expression": (roberta, upstream.LoraConfig(target_modules=r".*\.0\..*(key|output\.dense)", **CLS)),
    "lora, no task": (gpt2, upstream.LoraConfig(target_modules=["c_proj"], fan_in_fan_out=True)),
    "dora": (roberta, upstream.LoraConfig(r=3, lora_alpha=5, use_dora=True, **LORA)),
    "dora, fused": (gpt2, upstream.LoraConfig(r=3, lora_alpha=5, use_dora=True, **FUSED)),
    "vera": (roberta, upstream.VeraConfig(r=20, **LORA)),
    "vera, fused": (gpt2, upstream.VeraConfig(r=5, **FUSED)),
    "vera, three shapes": (
        roberta,
        upstream.VeraConfig(r=5, target_modules=["query", "intermediate.dense", "output.dense"], **CLS),
    ),
    "vera, bank from its seed": (
        roberta,
        upstream.VeraConfig(r=5, save_projection=False, projection_prng_key=9, **LORA),
    ),
    "adalora": (roberta, upstream.AdaLoraConfig(**ADALORA, **LORA)),
    "adalora, fused": (gpt2, upstream.AdaLoraConfig(**ADALORA, **FUSED)),
}


@pytest.mark.parametrize("build, config", THEIRS.values(), ids=THEIRS)
def test_we_compute_the_logits_of_what_peft_wrote(build, config, tmp_path):
    expected = written_by_peft(build(), config, tmp_path)
    adapted = formats.load(build(), tmp_path)
    assert (expected - logits(build())).abs().max() > 0.1
    assert (logits(adapted.model) - expected).abs().max() < 1e-5


def test_peft_leaves_what_it_did_not_train_as_the_base_has_it(tmp_path):
    """Beside adapters with a head, one without keeps the base's head."""
    expected = written_by_peft(roberta(), upstream.LoraConfig(target_modules=QV), tmp_path)
    adapted = trained(roberta(), LoRA())
    first = logits(adapted.model)
    formats.load(adapted, tmp_path, name="theirs")
    assert (logits(adapted.model) - expected).abs().max() < 1e-5
    adapted.switch("default")
    assert torch.equal(logits(adapted.model), first)


def test_matrices_that_an_older_peft_would_not_find_are_warned_of(tmp_path):
    """Those that PEFT itself makes from its seed come back in any version, without a warning."""
    written_by_peft(roberta(), upstream.VeraConfig(r=5, projection_prng_key=9, **LORA), tmp_path / "theirs")
    theirs = formats.load(roberta(), tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft.save(theirs, tmp_path / "again")
    assert (logits(by_peft(roberta(), tmp_path / "again")) - logits(theirs.model)).abs().max() < 1e-5
    theirs.layers[0].bank.A.mul_(2)
    with pytest.warns(UserWarning, match="PEFT before 0.21 ignores VeRA's stored random matrices"):
        peft.save(theirs, tmp_path / "other")


def test_a_pruned_adalora_comes_from_peft_and_goes_there(tmp_path):
    """Both write the triplets that are left; one layer has none."""
    left = {"0.attention.self.query": [0, 2], "0.attention.self.value": [], "1.attention.self.query": [1, 2, 3]}
    model = upstream.get_peft_model(roberta(), upstream.AdaLoraConfig(**ADALORA, **LORA))
    train({k: p for k, p in model.named_parameters() if p.requires_grad}, 3)
    pattern = {}
    with torch.no_grad():
        for key, parameter in model.base_model.model.named_parameters():
            if "lora_E" in key:
                kept = left.get(key.partition("layer.")[2].partition(".lora_E")[0], [0])
                pattern[key] = [i in kept for i in range(4)]
                parameter[[i for i in range(4) if i not in kept]] = 0
    model.peft_config["default"].rank_pattern = pattern
    expected = logits(model)
    model.save_pretrained(tmp_path / "theirs")
    adapted = formats.load(roberta(), tmp_path / "theirs")
    assert [layer.kept.bool().tolist() for layer in adapted.layers] == list(pattern.values())
    assert (logits(adapted.model) - expected).abs().max() < 1e-5
    peft.save(adapted, tmp_path / "ours")
    assert (logits(by_peft(roberta(), tmp_path / "ours")) - expected).abs().max() < 1e-5


def test_a_budget_that_masks_is_written_small(tmp_path):
    adapted = trained(roberta(), AdaLoRA(init_r=4, target_r=2, alpha=6))
    for i, layer in enumerate(adapted.layers):  # as the budget does; the last layer loses all four
        layer.kept[: i + 1] = 0
        layer.lora_E.data[: i + 1] = 0
    expected = logits(adapted.model)
    peft.save(adapted, tmp_path)
    sizes = [t.shape[0] for key, t in sorted(load_file(tmp_path / TENSORS).items()) if key.endswith("lora_E")]
    assert sizes == [3, 2, 1, 0]
    assert (logits(by_peft(roberta(), tmp_path)) - expected).abs().max() < 1e-5
    again = formats.load(roberta(), tmp_path)
    assert [layer.kept.tolist() for layer in again.layers] == [layer.kept.tolist() for layer in adapted.layers]
    assert torch.equal(logits(again.model), expected)
    for layer in again.layers:
        layer.shrink()
    peft.save(again, tmp_path)
    assert (logits(by_peft(roberta(), tmp_path)) - expected).abs().max() < 1e-5


def test_what_does_not_fit_beside_others_leaves_them_as_they_were(tmp_path):
    adapted = attach(roberta(), LoRA(), head=["classifier.out_proj.weight", "classifier.out_proj.bias"])
    train(adapted.trained(), 1)
    before = logits(adapted.model)
    written_by_peft(roberta(), upstream.LoraConfig(**LORA), tmp_path / "dense")
    with pytest.raises(VariantError, match="trains classifier.dense.weight, which is not part of this model's head"):
        formats.load(adapted, tmp_path / "dense", name="theirs")
    assert adapted.active == "default" and torch.equal(logits(adapted.model), before)
    adapted = trained(roberta(), LoRA())
    before = logits(adapted.model)
    peft.save(trained(roberta(num_labels=5), LoRA()), tmp_path / "five")
    with pytest.raises(VariantError, match=r"\(5, 16\) in the file and \(3, 16\) in the model"):
        formats.load(adapted, tmp_path / "five", name="theirs")
    assert list(adapted.adapters) == ["default"] and torch.equal(logits(adapted.model), before)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bias": "lora_only"}, "option bias='lora_only' has no counterpart"),
        ({"lora_bias": True}, "option lora_bias=True has no counterpart"),
        ({"trainable_token_indices": [1]}, r"option trainable_token_indices=\[1\] has no counterpart"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changes the base weights"),
    ],
)
def test_an_option_without_counterpart_is_named(options, message, tmp_path):
    written_by_peft(roberta(), upstream.LoraConfig(**LORA), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text()) | options
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(VariantError, match=message):
        formats.load(roberta(), tmp_path)


def test_another_method_of_peft_is_named(tmp_path):
    written_by_peft(roberta(), upstream.IA3Config(target_modules=QV, feedforward_modules=[]), tmp_path)
    with pytest.raises(VariantError, match="PEFT's IA3 has no counterpart here; readable are lora, dora"):
        formats.load(roberta(), tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("base_model.model.roberta.encoder.layer.0.attention.self.query.lora_B.weight"),
         "the file lacks base_model.model.roberta.encoder.layer.0.attention.self.query.lora_B.weight"),
        (lambda t: t.update({"base_model.model.other.lora_A.weight": torch.zeros(4, 16),
                             "base_model.model.other.lora_B.weight": torch.zeros(16, 4)}),
         "adapts other, which is no linear map of this model"),
        (lambda t: t.update({"base_model.model.stray": torch.zeros(3)}), "has stray, which this model does not have"),
        (lambda t: t.update({"base_model.model.classifier.out_proj.bias": torch.zeros(5)}),
         r"classifier.out_proj.bias is \(5,\) in the file and \(3,\) in the model"),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(change, message, tmp_path):
    peft.save(trained(roberta(), LoRA(r=4)), tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    change(tensors)
    save_file(tensors, tmp_path / TENSORS)
    with pytest.raises(VariantError, match=message):
        formats.load(roberta(), tmp_path)


class Biases(LoRA):
    name = "lora"

    def trainable(self, model):
        return ["roberta.encoder.layer.0.output.dense.bias"]


@pytest.mark.parametrize(
    "build, variant, message",
    [
        (gpt2, DoRA(r=4), "PEFT cannot express dora on slices of transformer.h.0.attn.c_attn"),
        (gpt2, VeRA(r=4), "PEFT cannot express vera on slices"),
        (gpt2, AdaLoRA(init_r=4, target_r=2), "PEFT cannot express adalora on slices"),
        (roberta, VeRA(r=4, target="q,up"), r"has its own: 16 x 16 \(r=4\), 24 x 16 \(r=4\)"),
        (roberta, VeRA(r=4, per_layer={"*.0.*": {"r": 3}}), r"has its own: 16 x 16 \(r=3\), 16 x 16 \(r=4\)"),
        (roberta, AdaLoRA(init_r=4, target_r=2, per_layer={"*.0.*": {"init_r": 3}}), "has one init_r and alpha"),
        (roberta, Off(), "PEFT has no form for off: it can be written for lora, dora"),
        (roberta, Biases(), "only a part of the one of roberta.encoder.layer.0.output.dense.bias is trained"),
    ],
)
def test_what_peft_has_no_form_for_is_named_and_nothing_written(build, variant, message, tmp_path):
    with pytest.raises(VariantError, match=message):
        peft.save(trained(build(), variant), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- loralib -----------------------------------------------------------------------------------------------

RELEASED = os.environ.get("LORALIB_FILE")


@pytest.mark.skipif(not RELEASED, reason="LORALIB_FILE does not name the authors' roberta_base_lora_mnli.bin")
def test_the_authors_released_file_loads_whole_and_writes_back_equal(tmp_path):
    base = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
    adapted = attach(roberta(**base), LoRA(r=8, alpha=16))
    theirs = torch.load(RELEASED, weights_only=True, map_location="cpu")
    own = adapted.state_dict()
    assert {key: t.shape for key, t in own.items()} == {key: t.shape for key, t in theirs.items()}
    assert adapted.count() | {"total": 0} == {"adapter": 294_912, "head": 592_899, "total": 0}
    formats.load(adapted, RELEASED, alpha=16, name="mnli")
    assert all(torch.equal(adapted.state_dict()[key], tensor) for key, tensor in theirs.items())
    assert loralib.save(adapted, tmp_path / "again.bin") == 16
    again = torch.load(tmp_path / "again.bin", weights_only=True)
    assert type(again) is type(theirs) and list(again) == list(theirs)
    assert all(torch.equal(again[key], theirs[key]) and again[key].dtype == theirs[key].dtype for key in theirs)


def test_a_file_of_separate_maps_comes_back(tmp_path):
    adapted = trained(roberta(), LoRA(r=4, alpha=6, per_layer={"*.0.*": {"r": 2, "alpha": 6.0}}))
    assert loralib.save(adapted, tmp_path / "lora.bin") == 6
    again = formats.load(roberta(), tmp_path / "lora.bin", alpha=6)
    assert torch.equal(logits(again.model), logits(adapted.model))


def test_alpha_is_the_one_that_loralibs_scaling_needs(tmp_path):
    """loralib knows alpha/r alone: alpha 6 over the root of 4 is 12 over 4."""
    adapted = trained(roberta(), LoRA(r=4, alpha=6, rslora=True))
    assert loralib.save(adapted, tmp_path / "lora.bin") == 12
    again = formats.load(roberta(), tmp_path / "lora.bin", alpha=12)
    assert torch.equal(logits(again.model), logits(adapted.model))


class Intruder:
    """A pickle that would run code when it is read."""

    def __reduce__(self):
        return os.mkdir, (os.environ["INTRUDED"],)


def merged_linear(a: torch.Tensor, b: torch.Tensor, enabled: list[bool]) -> torch.Tensor:
    """loralib's MergedLinear as it computes: A as channels of a grouped convolution, zeros for parts that are off."""
    groups = sum(enabled)
    found = F.conv1d(a[None], b[:, :, None], groups=groups)[0]
    width = len(b) // groups
    whole = torch.zeros(width * len(enabled), a.shape[1])
    whole[torch.tensor(enabled).repeat_interleave(width)] = found
    return whole


@pytest.mark.parametrize("target, enabled", [("q,v", [True, False, True]), ("q,k,v", [True, True, True])])
def test_a_fused_map_is_merged_linear(target, enabled, tmp_path):
    """Its weight as loralib would merge it is ours, and its file comes back."""
    adapted = trained(gpt2(), LoRA(r=2, alpha=6, target=target))
    expected = logits(adapted.model)
    alpha = loralib.save(adapted, tmp_path / "lora.bin")
    state = torch.load(tmp_path / "lora.bin", weights_only=True)
    again = formats.load(gpt2(), tmp_path / "lora.bin", alpha=alpha)
    assert torch.equal(logits(again.model), expected)
    plain = gpt2()
    with torch.no_grad():
        for i, block in enumerate(plain.transformer.h):
            a, b = (state[f"transformer.h.{i}.attn.c_attn.lora_{x}"] for x in "AB")
            assert a.shape == (2 * sum(enabled), 16) and b.shape == (16 * sum(enabled), 2)
            block.attn.c_attn.weight += alpha / 2 * merged_linear(a, b, enabled).t()
        plain.score.weight.copy_(state["score.weight"])
    assert (logits(plain) - expected).abs().max() < 1e-5


def test_the_authors_way_of_wrapping_a_state_dict_is_read(tmp_path):
    adapted = trained(gpt2(), LoRA(r=2, alpha=6))
    loralib.save(adapted, tmp_path / "lora.bin")
    state = torch.load(tmp_path / "lora.bin", weights_only=True)
    torch.save({"model_state_dict": state}, tmp_path / "wrapped.pt")
    again = formats.load(gpt2(), tmp_path / "wrapped.pt", alpha=6)
    assert torch.equal(logits(again.model), logits(adapted.model))


@pytest.mark.parametrize(
    "build, variant, message",
    [
        (roberta, Off(), "loralib has no form for off"),
        (roberta, LoRA(per_layer={"*.0.*": {"alpha": 3.0}}), "loralib has one alpha for all layers"),
        (gpt2, LoRA(target="k,v"), "does not say which slices of transformer.h.0.attn.c_attn it adapts"),
        (gpt2, LoRA(target="c_attn[0:16],c_attn[16:24]"), "must be equal parts of equal rank"),
    ],
)
def test_what_loralib_has_no_form_for_is_named_and_nothing_written(build, variant, message, tmp_path):
    with pytest.raises(VariantError, match=message):
        loralib.save(trained(build(), variant), tmp_path / "lora.bin")
    assert not list(tmp_path.iterdir())


SITE = "roberta.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    "content, message",
    [
        (OrderedDict({f"{SITE}.lora_A": torch.zeros(2, 16)}), f"has only lora_A of {SITE}"),
        (OrderedDict({"x.lora_A": torch.zeros(2, 16), "x.lora_B": torch.zeros(16, 2)}), "adapts x, which is no linear"),
        (OrderedDict({f"{SITE}.lora_A": torch.zeros(4, 16), f"{SITE}.lora_B": torch.zeros(16, 3)}), "fit neither"),
        (OrderedDict({"a": torch.zeros(2)}), "has no lora_A and lora_B"),
        ([1, 2], "holds something other than a state dict"),
    ],
)
def test_a_file_that_is_not_loralibs_is_named(content, message, tmp_path):
    torch.save(content, tmp_path / "lora.bin")
    with pytest.raises(VariantError, match=message):
        formats.load(roberta(), tmp_path / "lora.bin", alpha=1)


def test_alpha_must_be_told_and_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRUDED", str(tmp_path / "intruded"))
    loralib.save(trained(roberta(), LoRA()), tmp_path / "lora.bin")
    with pytest.raises(VariantError, match="loralib files do not hold alpha"):
        formats.load(roberta(), tmp_path / "lora.bin")
    torch.save({"x": Intruder()}, tmp_path / "pickle.bin")
    with pytest.raises(VariantError, match="is no loralib file"):
        formats.load(roberta(), tmp_path / "pickle.bin", alpha=1)
    assert not (tmp_path / "intruded").exists()
    (tmp_path / "text.bin").write_text("no pickle")
    with pytest.raises(VariantError, match="is no loralib file"):
        formats.load(roberta(), tmp_path / "text.bin", alpha=1)
    with pytest.raises(VariantError, match="is no adapter"):
        formats.load(roberta(), tmp_path)
