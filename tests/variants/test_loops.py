"""Other people's loops hold the adapter: transformers' Trainer (transformers #24252, #24274; lerobot #3459; peft
#1836), accelerate, Lightning, and the wrappers that they put around a model (peft #2957, #1932, #2118; Soup #335)."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.adapter_files import without_hash
from tests.support.outside_variants import PiSSA, Quiet, QuietLayer, Ramp
from tests.support.tiny import BATCH, Off, gpt2, logits, roberta, train, trained
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach, formats, load
from variants.formats import loralib, peft
from variants.formats.native import TENSORS, read_adapter, save_adapter
from variants.loops import trainer_callback
from variants.wrappers import plain

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*pin_memory")

METHODS = {
    "lora": LoRA(r=2, target="all-linear"),
    "dora": DoRA(r=2),
    "vera": VeRA(r=6),
    "vera with its matrices": VeRA(r=6, target="all-linear", save_projection=True),
    "adalora": AdaLoRA(init_r=4, target_r=2),
    "a first delta taken off": Off(r=2),
    "pissa": PiSSA(r=2),
}


class Rows(torch.utils.data.Dataset):
    """Sixteen rows of ids with a label."""

    def __len__(self):
        return 16

    def __getitem__(self, i):
        ids = torch.randint(4, 50, (6,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor(i % 3)}


def trainer(model: nn.Module, folder: Path, callbacks=(), **options):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    arguments = {"per_device_train_batch_size": 4, "learning_rate": 0.02, "num_train_epochs": 2, "seed": 1}
    arguments |= {"save_strategy": "epoch", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    arguments = transformers.TrainingArguments(output_dir=str(folder), **(arguments | options))
    return transformers.Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows(), callbacks=list(callbacks))


# ---- transformers' Trainer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", METHODS.values(), ids=METHODS)
def test_the_trainers_checkpoints_hold_the_adapter(variant, tmp_path):
    adapted = attach(roberta(), variant)
    trainer(adapted.model, tmp_path).train()
    keys = load_file(tmp_path / "checkpoint-8/model.safetensors")
    assert any(".adapter." in key for key in keys)
    fresh = attach(roberta(), variant, seed=0)
    trainer(fresh.model, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert torch.equal(logits(fresh.model), logits(adapted.model)) and (logits(roberta()) - logits(fresh.model)).any()
    halfway = attach(roberta(), variant)
    trainer(halfway.model, tmp_path / "b").train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert torch.allclose(logits(halfway.model), logits(adapted.model), atol=1e-5)


def test_the_best_model_comes_back_with_its_adapter(tmp_path):
    adapted = attach(roberta(), LoRA(r=2))
    options = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    own = trainer(adapted.model, tmp_path, greater_is_better=True, **options)
    own.train()
    losses = [entry["eval_loss"] for entry in own.state.log_history if "eval_loss" in entry]
    assert abs(losses[0] - losses[1]) > 1e-3
    assert own.evaluate()["eval_loss"] == pytest.approx(max(losses), abs=1e-5)


@pytest.mark.parametrize("build", [roberta, gpt2], ids=["roberta", "gpt2"])
def test_save_pretrained_writes_the_base_unless_a_state_dict_is_asked_for(build, tmp_path):
    adapted = trained(build(), LoRA(r=2))
    for model in (adapted.model, copy.deepcopy(adapted.model)):
        model.save_pretrained(tmp_path / "plain")
        assert not any(".adapter." in key for key in load_file(tmp_path / "plain/model.safetensors"))
        model.save_pretrained(tmp_path / "whole", state_dict=None)
        assert set(load_file(tmp_path / "whole/model.safetensors")) == set(model.state_dict())
        model.save_pretrained(tmp_path / "given", state_dict=model.state_dict())
        assert set(load_file(tmp_path / "given/model.safetensors")) == set(model.state_dict())


def test_the_callback_gives_a_method_its_penalty_and_its_steps(tmp_path):
    """AdaLoRA prunes down to its budget, and its penalty's gradient is added once for a step of two batches."""
    adapted = attach(roberta(), AdaLoRA(init_r=4, target_r=2, tinit=0, tfinal=2))
    seen = []

    class Spy(type(trainer_callback(adapted))):
        def on_pre_optimizer_step(self, *args, **kwargs):
            before = {k: p.grad.clone() for k, p in adapted.trained().items()}
            super().on_pre_optimizer_step(*args, **kwargs)
            penalty = adapted.penalty(1, 1)
            own = torch.autograd.grad(penalty, list(adapted.trained().values()), allow_unused=True)
            for (key, p), g in zip(adapted.trained().items(), own, strict=True):
                assert torch.allclose(p.grad, before[key] if g is None else before[key] + g)
            seen.append(penalty.item())

    trainer(adapted.model, tmp_path, [Spy()], gradient_accumulation_steps=2, num_train_epochs=4).train()
    assert len(seen) == 8 and seen[-1] > 0
    assert sum(int(layer.kept.sum()) for layer in adapted.layers) == 2 * len(adapted.layers)


def test_the_callback_tells_a_method_the_step_and_its_layers_the_mask(tmp_path, monkeypatch):
    """A penalty of what a pass has computed comes too late there, which is said."""
    steps, masks, own, forward = [], [], Ramp.penalty, QuietLayer.forward

    def penalty(self, layers, step, total_steps):
        steps.append((step.item(), total_steps))
        return own(self, layers, step, total_steps)

    def spy(self, x, y):
        masks.append(self.attention_mask.shape == x.shape[:2])
        return forward(self, x, y)

    monkeypatch.setattr(Ramp, "penalty", penalty)
    monkeypatch.setattr(QuietLayer, "forward", spy)
    adapted = attach(roberta(), Ramp(r=2))
    trainer(adapted.model, tmp_path, [trainer_callback(adapted)], gradient_accumulation_steps=2).train()
    assert steps == [(step, 4) for step in (1, 2, 3, 4)]
    adapted = attach(roberta(), Quiet(r=2))
    with pytest.raises(VariantError, match="the penalty depends on what a pass has computed"):
        trainer(adapted.model, tmp_path, [trainer_callback(adapted)]).train()
    monkeypatch.setattr(Quiet, "penalty", lambda *_: None)
    masks.clear()
    adapted = attach(roberta(), Quiet(r=2))
    trainer(adapted.model, tmp_path, [trainer_callback(adapted)]).train()
    assert masks and all(masks) and adapted.layers[0].attention_mask is None and not adapted.model._forward_pre_hooks


# ---- accelerate and Lightning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [METHODS["lora"], METHODS["vera with its matrices"]], ids=["lora", "vera"])
def test_accelerates_states_hold_the_adapter(variant, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    adapted = attach(roberta(), variant)
    model = accelerator.prepare(adapted.model)
    train(adapted.trained(), 1)
    accelerator.save_state(str(tmp_path / "state"))
    expected = logits(model)
    accelerator.unwrap_model(model).save_pretrained(tmp_path / "saved", state_dict=accelerator.get_state_dict(model))
    assert any(".adapter." in key for key in load_file(tmp_path / "saved/model.safetensors"))
    train(adapted.trained(), 2)
    accelerator.load_state(str(tmp_path / "state"))
    assert torch.equal(logits(model), expected)


def test_lightnings_checkpoint_holds_the_adapter(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.adapted = attach(roberta(), LoRA(r=2))
            self.model = self.adapted.model

        def training_step(self, batch, _):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.adapted.param_groups(0.02))

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    own = Module()
    loop = lightning.Trainer(max_epochs=1, default_root_dir=tmp_path, **quiet)
    loop.fit(own, torch.utils.data.DataLoader(Rows(), 8))
    loop.save_checkpoint(tmp_path / "all.ckpt")
    fresh = Module()
    fresh.load_state_dict(torch.load(tmp_path / "all.ckpt", weights_only=True)["state_dict"])
    assert torch.equal(logits(fresh.model), logits(own.model))


# ---- wrappers ---------------------------------------------------------------------------------------------------


class _FabricModule(nn.Module):
    """As Lightning Fabric names what it wraps."""

    def __init__(self, model):
        super().__init__()
        self._forward_module = model

    def forward(self, *args, **kwargs):
        return self._forward_module(*args, **kwargs)


WRAPPERS = {
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    "Fabric": _FabricModule,
    "two of them": lambda model: _FabricModule(nn.DataParallel(model)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_seen_through(wrap, tmp_path):
    """The head trains, presets work, the wrapper computes with the adapter, and its files fit the plain model."""
    wrapped = wrap(roberta())
    adapted = attach(wrapped, LoRA(r=2, alpha=16))
    assert adapted.head == attach(roberta(), LoRA(r=2)).head
    train(adapted.trained(), 1)
    expected = logits(adapted.model)
    with torch.no_grad():
        assert torch.allclose(wrapped.eval()(**BATCH).logits, expected, atol=1e-6)
    save_adapter(adapted, tmp_path / "ours")
    peft.save(adapted, tmp_path / "peft")
    loralib.save(adapted, tmp_path / "lora.bin")
    for folder in ("ours", "peft", "lora.bin"):
        for model in (roberta(), wrap(roberta())):
            again = formats.load(model, tmp_path / folder, alpha=16)
            assert torch.allclose(logits(again.model), expected, atol=1e-6)
    assert load(wrap(roberta()), tmp_path / "ours", strict=True).head == adapted.head


def test_a_wrapper_that_has_counted_its_parameters_is_refused():
    """DDP averages only what it was made with: a later adapter would train apart on every process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(roberta())
        with pytest.raises(VariantError, match="attach the adapter before DistributedDataParallel wraps the model"):
            attach(wrapped, LoRA(r=2))
        adapted = attach(roberta(), LoRA(r=2))
        again = nn.parallel.DistributedDataParallel(adapted.model)
        assert torch.equal(logits(again), logits(adapted.model))
    finally:
        torch.distributed.destroy_process_group()


PREFIXES = ["module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_file_with_a_wrappers_names_is_never_an_untrained_adapter(prefix, tmp_path):
    adapted = trained(roberta(), LoRA(r=2))
    save_adapter(adapted, tmp_path / "ours")
    peft.save(adapted, tmp_path / "peft")
    loralib.save(adapted, tmp_path / "lora.bin")
    ours = load_file(without_hash(tmp_path / "ours") / TENSORS)
    theirs = load_file(tmp_path / "peft" / peft.TENSORS)
    save_file({prefix + key: tensor for key, tensor in ours.items()}, tmp_path / "ours" / TENSORS)
    state = torch.load(tmp_path / "lora.bin", weights_only=True)
    torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "lora.bin")
    for where in ("ours", "lora.bin"):
        with pytest.raises(VariantError, match=f"its names begin with {prefix}"):
            formats.load(roberta(), tmp_path / where, alpha=16)
    inside = f"base_model.model.{prefix}"
    for change in (lambda key: prefix + key, lambda key: key.replace("base_model.model.", inside)):
        save_file({change(key): tensor for key, tensor in theirs.items()}, tmp_path / "peft" / peft.TENSORS)
        with pytest.raises(VariantError, match="its names begin with"):
            formats.load(roberta(), tmp_path / "peft")


def test_a_model_may_have_a_part_called_module(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = roberta()

    adapted = attach(Own(), LoRA(r=2, target="query"), head=[])
    train(adapted.trained(), 1)
    save_adapter(adapted, tmp_path)
    assert all(key.startswith("module.") for key in read_adapter(tmp_path)[1])
    again = load(Own(), tmp_path, strict=True)
    assert torch.equal(logits(again.model.module), logits(adapted.model.module))


def test_plain_names():
    assert plain("a._orig_mod.b._checkpoint_wrapped_module.weight") == "a.b.weight"
    assert plain("module.a") == "module.a"


def test_files_name_the_class_inside_of_the_wrapper(tmp_path):
    folder = save_adapter(attach(nn.DataParallel(roberta()), LoRA(r=2)), tmp_path)
    assert json.loads((folder / "adapter.json").read_text())["base"]["class"] == "RobertaForSequenceClassification"
