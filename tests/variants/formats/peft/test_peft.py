"""PEFT itself computes our logits from what we write, and we PEFT's from what it writes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.peft_files import CONFIG, LORA, OURS, QV, TENSORS, THEIRS, by_peft, upstream, written_by_peft
from tests.support.tiny import Off, gpt2, logits, roberta, train, trained
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach, formats
from variants.formats import peft

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:PEFT before 0.21:UserWarning")

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
    """Those of training too, site by site; VeRA's random matrices come from the file instead of their seed, and a
    map's own alpha is in its B: LoRA has one scaling for all maps (vllm #9280)."""
    adapted = trained(roberta(), variant)
    peft.save(adapted, tmp_path)
    again = formats.load(roberta(), tmp_path)
    elsewhere = {"target", "layers", "per_layer", "save_projection"}
    if variant.name in ("lora", "dora"):
        elsewhere.add("alpha")
        assert len({round(layer.scaling, 6) for layer in again.layers}) == 1
        for one, two in zip(adapted.layers, again.layers, strict=True):
            assert torch.allclose(one.scaling * one.lora_B, two.scaling * two.lora_B, rtol=1e-6)
    first, second = (
        {x.site.path: {k: v for k, v in x.config.options().items() if k not in elsewhere} for x in each.layers}
        for each in (adapted, again)
    )
    assert first == second


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
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq' changes the base weights"),
    ],
)
def test_an_option_without_counterpart_is_named(options, message, tmp_path):
    written_by_peft(roberta(), upstream.LoraConfig(**LORA), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text()) | options
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(VariantError, match=message):
        formats.load(roberta(), tmp_path)


def test_another_method_of_peft_is_named(tmp_path):
    written_by_peft(roberta(), upstream.LNTuningConfig(target_modules=["LayerNorm"]), tmp_path)
    with pytest.raises(VariantError, match="PEFT's LN_TUNING has no counterpart here; readable are lora, dora"):
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
    def trainable(self, model):
        return ["roberta.encoder.layer.0.output.dense.bias"]


Biases.name = "lora"  # stands for a method of the project, which alone may have such a name


@pytest.mark.parametrize(
    "build, variant, message",
    [
        (gpt2, DoRA(r=4), "PEFT cannot express dora on slices of transformer.h.0.attn.c_attn"),
        (gpt2, VeRA(r=4), "PEFT cannot express vera on slices"),
        (gpt2, AdaLoRA(init_r=4, target_r=2), "PEFT cannot express adalora on slices"),
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


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pixel = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.pixel(torch.tanh(self.conv(x)))


@pytest.mark.parametrize("method", [LoRA, DoRA])
def test_convolutions_there_and_back(method, tmp_path):
    adapted = trained(Convolutions(), method(r=2, alpha=3.0, target="conv,pixel"))
    x = torch.randn(2, 3, 8, 8)
    peft.save(adapted, tmp_path)
    assert load_file(tmp_path / TENSORS)["base_model.model.conv.lora_A.weight"].shape == (2, 3, 3, 3)
    assert (by_peft(Convolutions(), tmp_path)(x) - adapted.model(x)).abs().max() < 1e-6
    assert torch.equal(formats.load(Convolutions(), tmp_path).model(x), adapted.model(x))
    with pytest.raises(VariantError, match="no vera of convolutions, as conv is; as LoRA it computes the same"):
        peft.save(trained(Convolutions(), VeRA(r=2, target="conv")), tmp_path)
