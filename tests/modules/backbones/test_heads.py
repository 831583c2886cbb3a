"""The head depends on the seed alone, and is what pretraining left out."""

import inspect

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining

from modules.backbones.heads import pretrained_parts
from modules.backbones.loading import load_backbone
from modules.benchmarks.glue.tasks import TASKS
from modules.runs.config import RunConfig
from tests.support.models import MODELS
from variants import LoRA, attach
from variants.base_model import quiet
from variants.errors import UserError
from variants.methods.head import Head
from variants.sites.architectures import head_parameters, remember_lacked


def test_head_depends_on_the_seed_alone(folder):
    heads = []
    for seed, state in [(0, 1), (0, 2), (1, 2)]:
        torch.manual_seed(state)
        before = torch.get_rng_state()
        model, _, _ = load_backbone(folder, TASKS["rte"], seed)
        assert torch.equal(before, torch.get_rng_state())
        heads.append(torch.cat([p.flatten() for p in model.classifier.parameters()]))
        assert float(model.classifier.dense.weight.detach().std()) == pytest.approx(0.02, rel=0.25)
        assert not model.classifier.dense.bias.any()
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_checkpoints_own_head_is_not_kept(folder):
    for labels in ("rte", "mnli"):  # a head of the same size, and one of another
        model, _, _ = load_backbone(folder, TASKS[labels], seed=5)
        fresh, _, _ = load_backbone(folder, TASKS["rte"], seed=6)
        with torch.no_grad():
            model.classifier.out_proj.weight.fill_(7.0)
        model.save_pretrained(folder)
        again, _, _ = load_backbone(folder, TASKS["rte"], seed=6)
        assert torch.equal(again.classifier.out_proj.weight, fresh.classifier.out_proj.weight)


# ---- what was pretrained is backbone ---------------------------------------------------------------------------


@pytest.fixture
def bert(folder):
    """A folder with a BERT as pretraining leaves it, and a function that takes tensors out of it."""
    config = BertConfig(
        **{"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 24, "max_position_embeddings": 66, "pad_token_id": 1},
    )
    model = BertForPreTraining(config)
    with torch.no_grad():
        model.bert.pooler.dense.bias.normal_()
    model.save_pretrained(folder)

    def without(part: str) -> None:
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if part not in name}
        assert len(kept) < len(tensors)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return folder, model, without


POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def test_a_pretrained_pooler_is_frozen(bert):
    """As transformers' Trainer with PEFT has it; trained, it costs MRPC and CoLA some points on a MiniLM."""
    folder, pretrained, _ = bert
    model, _, _ = load_backbone(folder, TASKS["rte"], seed=3)
    assert torch.equal(model.bert.pooler.dense.bias, pretrained.bert.pooler.dense.bias)
    adapted = attach(model, LoRA(r=2, target="all-linear"))
    assert set(adapted.head) == {"classifier.weight", "classifier.bias"}
    assert not POOLER & {*adapted.trained(), *(f"{path}.weight" for path in adapted.adapter.layers)}
    assert not any(p.requires_grad for p in model.bert.pooler.parameters())


def test_a_pooler_that_the_checkpoint_lacks_is_head(bert):
    folder, _, without = bert
    without("pooler")
    drawn = []
    for seed, state in [(0, 1), (0, 2), (1, 2)]:
        torch.manual_seed(state)
        model, _, _ = load_backbone(folder, TASKS["rte"], seed)
        assert set(head_parameters(model)) == POOLER | {"classifier.weight", "classifier.bias"}
        drawn.append((model.bert.pooler.dense.weight, model.classifier.weight))
    assert torch.equal(drawn[0][0], drawn[1][0]) and not torch.equal(drawn[0][0], drawn[2][0])
    assert attach(model, LoRA(r=2)).count()["head"] == 16 * 16 + 16 + 2 * 16 + 2


def test_a_backbone_may_lack_nothing_else(bert):
    folder, _, without = bert
    without("layer.1.attention.self.query.weight")
    with pytest.raises(UserError, match="lack 1 tensors of the backbone"):
        load_backbone(folder, TASKS["rte"])


def test_runs_with_a_frozen_pooler_have_ids_of_their_own(bert, folder):
    """And those of families whose heads are as they were keep theirs."""
    assert pretrained_parts(bert[0]) == "pooler"
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    assert pretrained_parts(folder) == ""
    assert pretrained_parts(folder / "nowhere") == ""
    common = dict.fromkeys(("benchmark", "task", "variant", "protocol"), "x") | {"options": {}, "training": {}}
    ids = {
        RunConfig(**common, seed=0, backbone={"hash": "h"} | frozen, data={"hash": "d"}).id
        for frozen in ({}, {"frozen": "pooler"})
    }
    assert len(ids) == 2


PRETRAINED = {  # what a family's checkpoints are made by; elsewhere a language model
    "bert": "BertForPreTraining",
    "albert": "AlbertForPreTraining",
    "electra": "ElectraForPreTraining",
    "vit": "ViTForMaskedImageModeling",
    "clip": "CLIPModel",
    "whisper": "WhisperForConditionalGeneration",
    **{name: f"{title}ForMaskedLM" for name, title in {
        "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert", "distilbert": "DistilBert",
        "deberta": "Deberta", "deberta-v2": "DebertaV2", "modernbert": "ModernBert",
    }.items()},
    **{name: f"{title}ForConditionalGeneration" for name, title in {"t5": "T5", "mt5": "MT5", "bart": "Bart"}.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_what_is_fresh_trains_and_what_was_pretrained_does_not(name, tmp_path):
    """In every family: the head is what a pretrained checkpoint lacks, whether or not that was noted at loading."""
    classifier = MODELS[name]()
    made_by = getattr(transformers, PRETRAINED.get(name, "")) if name in PRETRAINED else None
    made = made_by(classifier.config) if made_by else transformers.AutoModelForCausalLM.from_config(classifier.config)
    made.save_pretrained(tmp_path)
    with quiet():
        model, report = type(classifier).from_pretrained(
            tmp_path, config=classifier.config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    lacked = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    assert lacked and set(head_parameters(model)) == lacked
    remember_lacked(model, lacked)
    assert set(head_parameters(model)) == lacked == set(attach(model, Head()).trained())
    assert head_parameters(made) == [] or name in ("electra", "vit", "clip")


@pytest.mark.parametrize(
    ("made_by", "classifier"),
    [
        ("XLNetLMHeadModel", "XLNetForSequenceClassification"),
        ("MobileBertForPreTraining", "MobileBertForSequenceClassification"),
        ("BigBirdForPreTraining", "BigBirdForSequenceClassification"),
        ("ErnieForPreTraining", "ErnieForSequenceClassification"),
    ],
)
def test_so_it_is_in_families_without_a_row(made_by, classifier, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    sizes |= {"vocab_size": 50, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}
    sizes |= {
        "embedding_size": 16,
        "true_hidden_size": 16,
        "intra_bottleneck_size": 16,
        "attention_type": "original_full",
    }
    config_class = getattr(transformers, made_by).config_class
    known = inspect.signature(config_class.__init__).parameters
    config = config_class(**({k: v for k, v in sizes.items() if k in known} or sizes))
    getattr(transformers, made_by)(config).save_pretrained(tmp_path)
    with quiet():
        model, report = getattr(transformers, classifier).from_pretrained(tmp_path, output_loading_info=True)
    remember_lacked(model, report["missing_keys"])
    assert report["missing_keys"] and set(head_parameters(model)) == set(report["missing_keys"])
