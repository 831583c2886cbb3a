"""Methods with other names and layouts in PEFT: PEFT computes our logits from our files, and we PEFT's from its own."""

import json

import pytest

from tests.support.peft_files import CLS, CONFIG, QV, by_peft, upstream, written_by_peft
from tests.support.tiny import gpt2, logits, roberta, trained
from variants import (
    BOFT,
    HRA,
    IA3,
    OFT,
    DeLoRA,
    FourierFT,
    LoHa,
    LoKr,
    MiSS,
    RandLoRA,
    VariantError,
    VBLoRA,
    attach,
    formats,
)
from variants.formats import peft
from variants.formats.peft.forms import FORMS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

OURS = {
    "ia3": IA3(target="k,v,o,down", inputs="down,attention.output.dense"),
    "loha": LoHa(r=3, alpha=5.0),
    "lokr": LoKr(r=1, alpha=5.0, target="up"),
    "lokr, one matrix": LoKr(r=3, alpha=5.0, factor=2),
    "oft": OFT(block=4),
    "oft, polynomial": OFT(block=8, terms=6),
    "boft": BOFT(block=4, factors=1),
    "hra": HRA(pairs=2),
    "fourierft": FourierFT(n=20, alpha=90.0),
    "vblora": VBLoRA(r=2, vectors=7, length=8, k=3),
    "randlora": RandLoRA(r=5, target="q,v"),
    "delora": DeLoRA(r=3, strength=4.0, target="up,down"),
    "miss": MiSS(r=4, target="all-linear"),
}
T = {"target_modules": QV, **CLS}
THEIRS = {
    "ia3": upstream.IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"], **CLS),
    "loha": upstream.LoHaConfig(r=3, alpha=5, **T),
    "lokr": upstream.LoKrConfig(r=1, alpha=3, target_modules=["intermediate.dense"], **CLS),
    "lokr, one matrix": upstream.LoKrConfig(r=7, alpha=3, **T),
    "lokr, both cut": upstream.LoKrConfig(r=1, alpha=3, decompose_factor=4, target_modules=["dense"], **CLS),
    "oft": upstream.OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, **T),
    "oft, polynomial": upstream.OFTConfig(r=0, oft_block_size=4, **T),
    "oft, three terms": upstream.OFTConfig(r=0, oft_block_size=4, num_cayley_neumann_terms=3, **T),
    "boft": upstream.BOFTConfig(boft_block_size=4, **T),
    "hra": upstream.HRAConfig(r=4, **T),
    "fourierft": upstream.FourierFTConfig(n_frequency=20, random_loc_seed=5, **T),
    "vblora": upstream.VBLoRAConfig(r=2, num_vectors=7, vector_length=8, **T),
    "randlora": upstream.RandLoraConfig(r=5, **T),
    "randlora, shapes": upstream.RandLoraConfig(r=5, target_modules=["query", "intermediate.dense"], **CLS),
    "delora": upstream.DeloraConfig(r=2, **T),
    "miss": upstream.MissConfig(r=4, **T),
}


def read_by_peft(folder):
    """PEFT's own reading; BOFT's warns of the extension for GPUs, which is not there."""
    boft = json.loads((folder / CONFIG).read_text())["peft_type"] == "BOFT"
    return upstream.PeftModel.from_pretrained(roberta(), folder).eval() if boft else by_peft(roberta(), folder)


@pytest.mark.parametrize("variant", OURS.values(), ids=OURS)
def test_peft_computes_our_logits(variant, tmp_path) -> None:
    adapted = trained(roberta(), variant)
    expected = logits(adapted.model)
    assert (expected - logits(roberta())).abs().max() > 0.01
    peft.save(adapted, tmp_path)
    assert (logits(read_by_peft(tmp_path)) - expected).abs().max() < 1e-5
    again = formats.load(roberta(), tmp_path)
    assert type(again.variant) is type(variant)
    assert (logits(again.model) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("config", THEIRS.values(), ids=THEIRS)
def test_we_compute_the_logits_of_what_peft_wrote(config, tmp_path) -> None:
    expected = written_by_peft(roberta(), config, tmp_path / "theirs")
    adapted = formats.load(roberta(), tmp_path / "theirs")
    assert (logits(adapted.model) - expected).abs().max() < 1e-5
    if config.peft_type != "RANDLORA" or len(config.target_modules) == 1:
        peft.save(adapted, tmp_path / "again")
        assert (logits(read_by_peft(tmp_path / "again")) - expected).abs().max() < 1e-5


def test_every_form_is_tried() -> None:
    for table in (OURS, THEIRS):
        assert {name.partition(",")[0] for name in table} == set(FORMS)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("oft", "coft", True), ("hra", "apply_GS", True), ("vblora", "save_only_topk_weights", True)],
)
def test_what_has_no_counterpart_is_refused(name, option, value, tmp_path) -> None:
    written_by_peft(roberta(), THEIRS[name], tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {option: value}))
    with pytest.raises(VariantError, match=f"PEFT's option {option}=.* has no counterpart"):
        formats.load(roberta(), tmp_path)


def test_what_peft_has_no_form_for_is_refused(tmp_path) -> None:
    with pytest.raises(VariantError, match="PEFT cannot express loha on slices of .*c_attn"):
        peft.save(attach(gpt2(), LoHa(r=2)), tmp_path)
    by_layer = LoHa(r=2, per_layer={"*.1.*": {"r": 3}})
    with pytest.raises(VariantError, match="PEFT's loha has one r for all layers"):
        peft.save(attach(roberta(), by_layer), tmp_path)
    with pytest.raises(VariantError, match="one pair of bases for all layers"):
        peft.save(attach(roberta(), RandLoRA(r=4, target="q,up")), tmp_path)
