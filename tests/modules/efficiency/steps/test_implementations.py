"""The implementations that are compared: the limit, ours and PEFT's, and how patterns choose among them."""

import numpy as np
import pytest
import torch

from modules.efficiency.steps import backbones, grid, stepper
from modules.efficiency.steps import batches as batch_kinds
from modules.efficiency.steps.grid import Implementation
from modules.efficiency.steps.implementations import build_trainee
from tests.support.efficiency import CPU, GPT2, ROBERTA, SMALL


@pytest.mark.parametrize("config", [ROBERTA, GPT2], ids=["roberta", "gpt2"])
def test_limit_goes_through_every_block_and_trains_the_head_alone(config):
    master = backbones.build(config, CPU)
    trainee = build_trainee(Implementation("limit", "", "eager"), master, {}, bf16=False)
    reached = []
    model = trainee.handle.model
    blocks = model.transformer.h if config is GPT2 else model.roberta.encoder.layer
    for index, block in enumerate(blocks):
        block.register_full_backward_hook(lambda *_, index=index: reached.append(index))
    batch = batch_kinds.fixed_batches(config, 4, 16, CPU)[0]
    trainee.loss(batch).backward()
    assert reached == [1, 0]
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if name.startswith("classifier")}
    plain = backbones.loss_of(master.eval(), batch)
    assert trainee.handle.model.eval() and torch.allclose(trainee.loss(batch), plain, atol=1e-5)


def test_limit_without_padding_computes_the_limits_loss():
    master = backbones.build(ROBERTA, CPU, dropout=False)
    batch = batch_kinds.fixed_batches(ROBERTA, 4, 16, CPU)[0]
    padded, packed = (
        build_trainee(Implementation(library, "", "eager"), master, {}, bf16=False)
        for library in ("limit", grid.LIMIT_PACKED)
    )
    tokens = []
    packed.handle.model.roberta.encoder.layer[0].intermediate.register_forward_hook(
        lambda module, inputs, output: tokens.append(output.shape[:-1].numel())
    )
    losses = [trainee.loss(batch_kinds.picked(batch, trainee.kind)) for trainee in (padded, packed)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    assert tokens == [batch["attention_mask"].sum()]
    sum(losses).backward()
    for one, other in zip(padded.parameters, packed.parameters, strict=True):
        assert one.grad.abs().max() > 1e-4 and torch.allclose(one.grad, other.grad, atol=1e-6)
    names = [way.name for way in grid.grid(("lora",), grid.MODES, packed=False)]
    assert "limit graphs" in names and not any(name.startswith(grid.LIMIT_PACKED) for name in names)


def test_methods_of_one_size_take_their_own_steps_too():
    """Sized to a budget; hooks of a method between the gradient and the optimizer's step, and after it, are called."""
    master, batch = backbones.build(ROBERTA, CPU), batch_kinds.fixed_batches(ROBERTA, 4, 16, CPU)[0]
    called = []
    for method, hook, budget, trained in (
        ("lora_pro", "before", 256, 256),
        ("adapter_d", "after", 300, 2 * (2 * 16 * 4 + 4 + 16)),
    ):
        trainee = build_trainee(Implementation("ours", method, "eager"), master, {method: {}}, False, budget=budget)
        assert trainee.handle.count()["adapter"] == trained
        step = getattr(trainee, hook)
        setattr(trainee, hook, lambda number, step=step, hook=hook: (called.append((hook, number)), step(number)))
        step = stepper.Stepper(trainee, "trained")
        for _ in range(2):
            step(batch)
    assert called == [("before", 1), ("before", 2), ("after", 1), ("after", 2)]
    plain = build_trainee(Implementation("ours", "lora", "eager"), master, {"lora": {}}, False)
    assert plain.before is plain.after is plain.extra is None


@pytest.mark.slow
def test_bf16_keeps_what_trains_in_fp32():
    master = backbones.build(ROBERTA, CPU)
    options = {m: grid.METHODS[m] | SMALL.get(m, {}) for m in grid.METHODS}
    methods = {"limit": ("",), grid.TOGETHER: ("lora",)}
    for library in ("limit", "ours", grid.TOGETHER, "peft", "peft-bf16"):
        for method in methods.get(library, grid.METHODS):
            trainee = build_trainee(Implementation(library, method, "eager"), master, options, bf16=True)
            wanted = torch.bfloat16 if library == "peft-bf16" else torch.float32
            assert {p.dtype for p in trainee.parameters} == {wanted}, (library, method)
            model = trainee.handle.model
            frozen = {p.dtype for p in model.parameters() if not p.requires_grad and p.ndim == 2}
            assert torch.bfloat16 in frozen
            assert np.isfinite(
                stepper.Stepper(trainee, "eager")(batch_kinds.fixed_batches(ROBERTA, 4, 16, CPU)[0]).item()
            )


def test_reference_is_ours_without_acceleration():
    """Padded batches in a plain pass, and the same loss and gradients."""
    assert not [one for one in grid.grid(("lora",), grid.MODES) if "reference" in one.name]
    chosen = grid.grid(("lora",), grid.MODES, ("ours-reference",), reference=True)
    assert [one.name for one in chosen] == ["ours-reference lora eager"]
    master = backbones.build(ROBERTA, CPU, dropout=False)
    batch = batch_kinds.fixed_batches(ROBERTA, 4, 16, CPU)[0]
    options = {"lora": grid.METHODS["lora"]}
    plain, fast = (
        build_trainee(Implementation(library, "lora", "eager"), master, options, False)
        for library in (grid.REFERENCE, "ours")
    )
    assert (plain.kind, fast.kind) == ("", "packed")
    losses = [trainee.loss(batch_kinds.picked(batch, trainee.kind)) for trainee in (plain, fast)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    sum(losses).backward()
    for one, other in zip(plain.parameters, fast.parameters, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_patterns_choose_ways():
    names = [way.name for way in grid.grid(("lora", "adalora"), grid.MODES, ("ours lora", "*adalora eager"))]
    assert "ours lora trained" in names and "peft-bf16 adalora eager" in names
    assert all(n.startswith("ours lora") or n.endswith("adalora eager") for n in names)
    everything = [way.name for way in grid.grid(("lora", "adalora"), grid.MODES)]
    assert everything[-1].startswith("peft-bf16 adalora") and "peft adalora compiled" not in everything
