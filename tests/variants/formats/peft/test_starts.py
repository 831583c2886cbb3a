"""PEFT's LoRA that starts as a part of the base weight: its files, plain and converted, against PEFT's own outputs."""

import json

import pytest
import torch
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda

from tests.support.peft_files import CONFIG, QV, by_peft, upstream
from tests.support.tiny import gpt2, logits, roberta, train
from tests.variants.training.test_batches import batches
from variants import VariantError, convert, formats
from variants.formats import peft

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Using Rank-Stabilized LoRA:UserWarning")

PATTERNS = {"rank_pattern": {"query": 3, "0.attn.c_attn": 2}, "alpha_pattern": {"value": 9, "1.attn.c_attn": 11}}
FILES = {
    "pissa": (roberta, {"init_lora_weights": "pissa"}),
    "pissa, rslora and patterns": (roberta, {"init_lora_weights": "pissa", "use_rslora": True, **PATTERNS}),
    "pissa, fused": (gpt2, {"init_lora_weights": "pissa"}),
    "pissa, fused, rslora and patterns": (gpt2, {"init_lora_weights": "pissa", "use_rslora": True, **PATTERNS}),
    "olora": (roberta, {"init_lora_weights": "olora"}),
    "olora, patterns": (roberta, {"init_lora_weights": "olora", **PATTERNS}),
}
MAPS = {roberta: {"target_modules": QV}, gpt2: {"target_modules": ["c_attn"], "fan_in_fan_out": True}}


def config_of(build, options) -> "upstream.LoraConfig":
    return upstream.LoraConfig(r=4, lora_alpha=6, task_type="SEQ_CLS", **MAPS[build], **options)


def rows(name: str) -> list[dict[str, torch.Tensor]]:
    """One row a batch, as PEFT's CorDA takes them."""
    return [
        {key: t[i : i + 1] for key, t in batch.items()} for batch in batches(name) for i in range(len(batch["labels"]))
    ]


def started(build, config) -> torch.nn.Module:
    """PEFT's model before its first step, with what a start from data needs."""
    model = build()
    if config.init_lora_weights == "corda":
        config.corda_config = CordaConfig(corda_method="ipm")
        preprocess_corda(model, config, lambda: [model(**row) for row in rows("roberta")])
    if config.init_lora_weights == "lora_ga":
        ga = pytest.importorskip("peft.tuners.lora.loraga", reason="this PEFT has no LoRA-GA")
        config.lora_ga_config = upstream.LoraGAConfig(stable_gamma=1)
        ga.preprocess_loraga(model, config, lambda: [model(**batch).loss.backward() for batch in batches("roberta")])
    return upstream.get_peft_model(model, config)


def written(build, options, folder, head=True) -> torch.Tensor:
    """The logits after PEFT's training; in ``folder`` as PEFT saves it, in ``folder``-converted as LoRA.

    Args:
        head: it trains too; PEFT's conversion drops it.
    """
    config = config_of(build, options)
    model = started(build, config)
    initial, start = folder.with_name("initial"), config.init_lora_weights
    config.init_lora_weights = True  # so PEFT's guide saves it, for the difference to what is learnt
    model.save_pretrained(initial)
    config.init_lora_weights = start
    train({key: p for key, p in model.named_parameters() if p.requires_grad and (head or "lora_" in key)}, 3)
    expected = logits(model)
    model.save_pretrained(folder)
    if not (config.use_rslora and config.rank_pattern):  # which PEFT does not convert
        converted = folder.with_name(f"{folder.name}-converted")
        model.save_pretrained(converted, path_initial_model_for_weight_conversion=str(initial))
    return expected


@pytest.mark.parametrize("build, options", FILES.values(), ids=FILES)
def test_a_first_update_that_the_base_decides_is_taken_off_it(build, options, tmp_path):
    expected = written(build, options, tmp_path / "theirs")
    again = upstream.PeftModel.from_pretrained(build(), tmp_path / "theirs")
    assert (logits(again) - expected).abs().max() < 1e-5, "as PEFT reads it"
    adapted = formats.load(build(), tmp_path / "theirs")
    assert adapted.variant.name == options["init_lora_weights"]
    assert (logits(adapted.model) - expected).abs().max() < 1e-5
    peft.save(adapted, tmp_path / "as-lora")
    assert (logits(by_peft(build(), tmp_path / "as-lora")) - expected).abs().max() < 1e-5
    adapted.deactivate()
    assert (logits(adapted.model) - logits(build())).abs().max() == 0, "the base is whole again"


CONVERTED = {name: FILES[name] for name in ("pissa", "pissa, fused", "olora", "olora, patterns")}
CONVERTED |= {start: (roberta, {"init_lora_weights": start}) for start in ("pissa_niter_4", "corda", "lora_ga")}


@pytest.mark.parametrize("build, options", CONVERTED.values(), ids=CONVERTED)
def test_what_peft_has_converted_is_plain_lora(build, options, tmp_path):
    expected = written(build, options, tmp_path / "theirs", head=False)
    assert (expected - logits(build())).abs().max() > 0.1
    with pytest.warns(UserWarning, match="lacks the head that was trained with it"):
        adapted = formats.load(build(), tmp_path / "theirs-converted")
    assert adapted.variant.name == "lora"
    assert (logits(adapted.model) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("start", ["mica", "orthogonal"])
def test_a_start_that_leaves_the_base_is_plain_lora(start, tmp_path):
    model = upstream.get_peft_model(roberta(), config_of(roberta, {"init_lora_weights": start}))
    train({key: p for key, p in model.named_parameters() if p.requires_grad}, 3)
    model.save_pretrained(tmp_path)
    assert (logits(formats.load(roberta(), tmp_path).model) - logits(model)).abs().max() < 1e-5


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "lora_ga"])
def test_a_start_that_no_file_holds_is_refused_with_what_holds_it(start, tmp_path):
    written(roberta, {"init_lora_weights": start}, tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / CONFIG).read_text())["init_lora_weights"] == start
    line = f"init_lora_weights='{start}' took an update off the base weights that the file does not hold"
    with pytest.raises(VariantError, match=f"{line}: save it in PEFT with path_initial_model_for_weight_conversion"):
        formats.load(roberta(), tmp_path / "theirs")


@pytest.mark.parametrize(
    "options", [{"init_lora_weights": "loftq"}, {"init_lora_weights": "pissa", "use_dora": True}], ids=["loftq", "dora"]
)
def test_what_no_method_here_does_is_refused(options, tmp_path):
    upstream.get_peft_model(roberta(), config_of(roberta, {})).save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | options))
    with pytest.raises(VariantError, match="changes the base weights, as no method here does: merge it in PEFT"):
        formats.load(roberta(), tmp_path)


def test_pefts_olora_of_transposed_maps_is_refused(tmp_path):
    """PEFT factors (in, out) as if it were (out, in), and does not start as the base."""
    options = {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True, "init_lora_weights": "olora"}
    model = upstream.get_peft_model(gpt2(), upstream.LoraConfig(r=4, task_type="SEQ_CLS", **options))
    assert (logits(model) - logits(gpt2())).abs().max() > 0.1
    model.save_pretrained(tmp_path)
    with pytest.raises(VariantError, match="PEFT takes OLoRA's factors of .*c_proj from its transpose"):
        formats.load(gpt2(), tmp_path)


def test_conversion_asks_for_the_base(tmp_path, capsys):
    """The file has no shape that is missing, and not what was taken off the base; ours has it then."""
    expected = written(roberta, {"init_lora_weights": "pissa"}, tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / CONFIG).read_text())
    (tmp_path / "theirs" / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": None}))
    roberta().save_pretrained(tmp_path / "base")
    for to in ("ours", "peft"):
        words = [str(tmp_path / "theirs"), str(tmp_path / to), "--to", to]
        assert convert.main(words) == 2 and not (tmp_path / to).exists()
        assert "depends on base weights: give the model (--model)" in capsys.readouterr().err
        assert convert.main([*words, "--model", str(tmp_path / "base")]) == 0
        assert (logits(formats.load(roberta(), tmp_path / to).model) - expected).abs().max() < 1e-5
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "alone"), "--to", "peft"]) == 0
    assert (logits(formats.load(roberta(), tmp_path / "alone").model) - expected).abs().max() < 1e-5
