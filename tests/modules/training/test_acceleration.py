"""The door to acceleration: the reference computes the same with none of it, and nothing else needs the folders."""

import ast
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import modules.training.run
from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.text.data import TextDataModule
from modules.paths import PROJECT
from modules.training import acceleration
from modules.training.run import run, run_seeds
from tests.support.models import MODELS
from tests.support.runs import adapter, planned
from tests.support.tokens import make_tokens
from variants import LoRA, attach
from variants.acceleration.basics import torch_private

DOOR = "modules/training/acceleration.py"
MEASURED = ("modules/efficiency/", "modules/pretraining/")
"""Folders that measure acceleration itself, or use it where it is there."""


def reference(configs):
    """The same runs, without acceleration."""
    for config in configs:
        config.reference = True
    return configs


def imports(path: Path) -> set[str]:
    """The names of all modules that a file imports, at its top or in its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_one_file_of_modules_imports_acceleration():
    importers = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "modules").rglob("*.py")
        if any(name.startswith(("variants.acceleration", "modules.acceleration")) for name in imports(path))
    }
    own = {name for name in importers if name.startswith("modules/acceleration/")}
    assert {name for name in importers - own if not name.startswith(MEASURED)} == {DOOR}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lora", "dora", "adalora", "full"])
def test_the_reference_trains_to_the_same(command, tmp_path, variant):
    options = {"init_r": 3, "target_r": 2} if variant == "adalora" else {}
    trainer = {"accumulate_grad_batches": 2}
    fast = planned(command, variant, options=options, trainer=trainer)
    slow = planned(command, variant, options=options, trainer=trainer, results_dir=str(tmp_path / "slow"))
    one, two = run(fast[0]), run(reference(slow)[0])
    assert one.id == two.id and two.environment["reference"] is True and "reference" not in one.environment
    for a, b in zip(one.epochs, two.epochs, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    for name, tensor in adapter(slow[0]).items():
        torch.testing.assert_close(adapter(fast[0])[name], tensor, rtol=1e-4, atol=1e-5)


def test_stacked_seeds_have_a_reference_too(command, tmp_path):
    training = {"lr": 5e-3, "batch_size": 16, "epochs": 1, "gradient_clip_val": 0.1}
    fast = planned(command, seeds=[0, 1], training=training)
    slow = planned(command, seeds=[0, 1], training=training, results_dir=str(tmp_path / "slow"))
    for one, two in zip(run_seeds(fast), run_seeds(reference(slow)), strict=True):
        assert one.epochs[0] == pytest.approx(two.epochs[0], rel=1e-5, abs=1e-6)


def test_the_reference_uses_nothing_of_ours(command, monkeypatch):
    """Padded batches, hooks of the adapters alone, torch's AdamW, and autocast over an fp32 backbone."""
    seen = {}

    class Spy(modules.training.run.FineTuner):
        def __init__(self, adapted, objective, computation, **options):
            super().__init__(adapted, objective, computation, **options)
            seen["computation"], seen["step"] = computation, self.step
            seen["dtypes"] = {p.dtype for p in adapted.model.parameters()}
            seen["hooks"] = len(adapted.model.base_model._forward_pre_hooks)

        def configure_optimizers(self):
            found = super().configure_optimizers()
            seen["optimizer"] = found["optimizer"]
            return found

        def training_step(self, batch, batch_idx):
            seen["batch"], seen["autocast"] = set(batch), torch.is_autocast_enabled("cpu")
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(modules.training.run, "FineTuner", Spy)
    (config,) = planned(command, trainer={"precision": "bf16-mixed"})
    run(reference([config])[0])
    assert type(seen["computation"]) is acceleration.PlainComputation and seen["step"] is None
    assert isinstance(seen["computation"].forward_pass(), nullcontext)
    assert seen["dtypes"] == {torch.float32} and seen["autocast"]
    assert seen["hooks"] == 0 and "attention_mask" in seen["batch"] and "ends" not in seen["batch"]
    assert type(seen["optimizer"]) is torch.optim.AdamW and not seen["optimizer"].defaults["fused"]


def test_released_model_and_data_are_as_before(command):
    (config,) = planned([*command, "--trainer.accelerator", "cpu"])
    data = TextDataModule(TASKS["rte"], {"train": make_tokens([3, 5])}, pad_id=1, batch_size=2, max_length=64)
    adapted = attach(MODELS["roberta"](), LoRA(r=2), 0)
    computation = acceleration.accelerate(adapted, data, config, "32-true")
    assert "ends" in next(iter(data.train_dataloader()))
    computation.release()
    assert "ends" not in next(iter(data.train_dataloader())) and not data.fill
    assert not any("forward" in vars(block) for block in adapted.model.base_model.encoder.layer)


def test_where_pytorch_lacks_something_the_run_is_plain_and_says_so(command, monkeypatch):
    monkeypatch.setattr(torch_private, "MISSING", ("_foreach_abs",))
    acceleration.available.cache_clear()
    try:
        (config,) = planned(command, "head")
        with pytest.warns(UserWarning, match="acceleration is off: PyTorch .* has no torch._foreach_abs"):
            result = run(config)
        assert result.environment["reference"] is True
    finally:
        acceleration.available.cache_clear()
