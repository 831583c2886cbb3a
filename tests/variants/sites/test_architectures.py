"""The four methods on tiny random models: attach, steps, merge, save, reload.

In fp32 and bf16 by turns on nine architectures; LoRA in fp32, with a rank on every attention map, on the others.
"""

import copy

import pytest
import torch

from tests.support.models import BASIC, MODELS, inputs
from variants import attach, load, resolve
from variants.formats.native import save_adapter

OPTIONS = {"lora": {"r": 2}, "dora": {"r": 2}, "vera": {"r": 8}, "adalora": {"init_r": 3, "target_r": 2}}


def logits(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits.float()


DTYPES = (torch.float32, torch.bfloat16)
CASES = [(n, v, DTYPES[(i + j) % 2]) for i, n in enumerate(BASIC) for j, v in enumerate(OPTIONS)]  # each in both
CASES += [(name, "lora", torch.float32) for name in MODELS if name not in BASIC]
CASES += [(name, "dora", torch.bfloat16) for name in ("phi3", "gpt_neox", "falcon", "deberta")]  # slices of all kinds


@pytest.mark.parametrize(("name", "variant", "dtype"), CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_attach_step_merge_save_reload(name, variant, dtype, tmp_path):
    model = MODELS[name]().to(dtype)
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs(name).items()}
    fresh, base = copy.deepcopy(model), logits(model, batch)
    adapted = attach(model, resolve(variant)(**OPTIONS[variant]), seed=0)
    assert torch.equal(logits(model, batch), base)
    optimizer = torch.optim.AdamW(adapted.param_groups(0.05))
    for step in (1, 2, 3):  # Λ and B leave zero with the first step, what multiplies them moves from the second on
        output = model(**batch).logits.float()
        loss = torch.nn.functional.cross_entropy(output, torch.arange(len(output)) % output.shape[1])
        penalty = adapted.penalty(1, 1)
        (loss if penalty is None else loss + penalty).backward()
        assert all(p.grad is not None for p in adapted.trained().values())
        optimizer.step()
        adapted.after_step(step, 10)
        optimizer.zero_grad()
    trained = logits(model, batch)
    assert not torch.allclose(trained, base, atol=1e-3)
    save_adapter(adapted, tmp_path)
    load(fresh, tmp_path, strict=True)
    assert torch.equal(logits(fresh, batch), trained)
    assert adapted.merge() < 1e-4
    size = trained.abs().max().item()
    assert torch.allclose(logits(model, batch), trained, atol=1e-5 if dtype == torch.float32 else 0.06 * max(size, 1))
    adapted.unmerge()
    assert torch.equal(logits(model, batch), trained)
