"""The graphed step gives what Lightning's own gives. CUDA graphs themselves need a GPU; without one every step is eager
and all else is as it is there: who owns the gradients, what is cleared when, who clips, how batches are filled."""

import gc

import pytest
import torch
import torch.nn.functional as F

import modules.training.run
from modules.acceleration.cuda_graphs import GraphedAdamW, GraphedStep
from modules.acceleration.frozen_precision import lower_frozen
from modules.acceleration.gradients import FlatGradients
from modules.data.module import PaddedDataModule
from modules.training import acceleration
from tests.support.models import MODELS, inputs
from tests.support.runs import adapter, planned
from tests.support.small import small as fitting
from variants import DoRA, LoRA, VeRA, attach
from variants.acceleration import accelerated
from variants.adapters.stack import Stack
from variants.fingerprint import fingerprint
from variants.methods.adalora import AdaLoRA
from variants.registry import names, resolve
from variants.sites.architectures import head_parameters

GPU = pytest.mark.gpu("CUDA graphs")
VARIANTS = ("head", "lora", "adalora", "dora", "vera", "full", "bitfit", "adapter_h", "prefix_layer")


OUTSIDE = tuple(f"tests.support.outside_variants:{name}" for name in ("Ramp", "Normed", "Quiet"))
HOOKS = ("lora_ga", "eva", "lora_pro", "galore", "relora", "pissa", *OUTSIDE)
"""A method for each hook, and those of outside: a penalty that grows with the step, gradients that are replaced, and a
penalty of what a pass computes at its tokens. AdaLoRA is among the others."""
MADE = ("delora", "vblora", "hra", "fourierft", "loha", "lokr", "randlora")
"""Methods whose layers compute something of their tensors: for all of them at once, in a graph."""
NEAR = 1e-3
"""How far a captured run's weights may be off, on a GPU, whose products differ from one run to the next."""


def small(variant: str) -> dict:
    """Options that fit tiny models."""
    sizes = {"adalora": {"init_r": 3, "target_r": 2}, "vera": {"r": 8}, "prefix_layer": {"p": 2}, "galore": {"r": 1}}
    sizes |= {"fourierft": {"n": 20}, "vblora": {"r": 2, "vectors": 8, "length": 8}}
    return sizes.get(variant, {"r": 2} if variant in (*HOOKS, *MADE) and variant != "hra" else {})


def off(own: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest root mean square of a tensor's differences."""
    return max((own[name] - tensor).square().mean().sqrt().item() for name, tensor in other.items())


@pytest.fixture
def graphed(monkeypatch):
    """Runs take the graphed path on the CPU, without capturing anything."""
    monkeypatch.setattr(acceleration, "uses_graphs", lambda config, precision: True)
    monkeypatch.setattr(GraphedAdamW, "EAGER", 10**9)


def test_gradients_are_those_of_backward_and_stay_where_they_are():
    model = MODELS["roberta"]()
    adapted = attach(model.eval(), LoRA(r=2), 0)
    batch = inputs("roberta", batch=4)

    def compute(batch):
        loss = model(**batch).logits.square().sum()
        return loss, 2 * loss

    parameters = adapted.trained()
    step = GraphedStep(compute, parameters.values())
    step.zero()
    own = [p.grad for p in parameters.values()]
    loss, twice = step(batch)
    step(batch)  # without zero(): accumulates
    assert torch.equal(twice, 2 * loss) and not loss.requires_grad
    found = {name: p.grad.clone() for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None  # Lightning does this before it evaluates
    compute(batch)[0].backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], 2 * parameter.grad)
    step.zero()
    assert all(p.grad is before for p, before in zip(parameters.values(), own, strict=True))
    assert not any(p.grad.any() for p in parameters.values())


def test_a_parameter_without_a_gradient_is_told():
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    step = GraphedStep(lambda batch: ((used * batch["x"]).sum(),), [used, unused])
    step.zero()
    step({"x": torch.ones(2)})
    assert step.unused == [unused] and not unused.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "accumulate"), [*((variant, 1) for variant in VARIANTS), ("lora", 2), ("adalora", 2)]
)
def test_a_run_comes_out_the_same(command, tmp_path, monkeypatch, graphed, variant, accumulate):
    """Two epochs with an uneven last batch, an evaluation in between, clipping, schedule and weight decay."""
    trainer = {"accumulate_grad_batches": accumulate}
    options = small(variant)
    results, weights = [], []
    for name in ("graphed", "plain"):
        if name == "plain":
            monkeypatch.undo()
        (run,) = planned(command, variant, options=options, trainer=trainer, results_dir=str(tmp_path / name))
        results.append(modules.training.run.run(run))
        weights.append(adapter(run))
    assert results[0].id == results[1].id  # how a step is carried out is no part of what it computes
    for ours, plain in zip(results[0].epochs, results[1].epochs, strict=True):
        assert ours == pytest.approx(plain, rel=1e-5)
    for key, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][key], tensor, rtol=1e-5, atol=1e-6)


def test_gradients_are_averaged_once_a_step(command, tmp_path, monkeypatch, graphed):
    """After each accumulation, as under DistributedDataParallel's ``no_sync``."""
    averaged = []
    monkeypatch.setattr(FlatGradients, "average", lambda self: averaged.append(self))
    trainer = {"accumulate_grad_batches": 2, "limit_train_batches": 4}
    (run,) = planned(command, "head", trainer=trainer, results_dir=str(tmp_path))
    modules.training.run.run(run)
    assert len(averaged) == 2 * 2  # epochs, steps


def test_filled_batches_of_a_width_have_one_shape_and_the_same_loss():
    from tests.support.tokens import make_tokens

    split = make_tokens([3, 9, 4, 5, 7, 2, 6])
    modules_ = [PaddedDataModule({"train": split}, (), 0, batch_size=3, max_length=16, fill=fill) for fill in (0, 1)]
    plain, filled = ([batch for batch in module.train_dataloader()] for module in modules_)
    assert {batch["input_ids"].shape for batch in filled} == {(3, 16)}
    for a, b in zip(plain, filled, strict=True):
        assert b["weight"].sum() == pytest.approx(a["weight"].sum())
        assert not b["weight"][len(a["weight"]) :].any()


@pytest.mark.parametrize("variant", [LoRA(r=2), DoRA(r=2), VeRA(r=8), AdaLoRA(init_r=3, target_r=2)])
@pytest.mark.parametrize("architecture", ["roberta", "bert", "gpt2"])
def test_lowered_base_trains_like_autocast_and_keeps_its_fingerprint(architecture, variant):
    """Frozen weights in bf16, what trains in fp32, and a loss within bf16's digits of the fp32 model's."""
    losses, prints = [], []
    for lower in (False, True):
        model = MODELS[architecture]()
        head = set(head_parameters(model))
        if lower:
            lower_frozen(model, torch.bfloat16)
        adapted = attach(model.eval(), variant, 0)
        trained = adapted.trained()
        with torch.no_grad():
            for k, parameter in enumerate(trained.values()):
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k))
        loss = model(**inputs(architecture, batch=4)).logits.float().square().mean()
        loss.backward()
        assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in trained.values())
        frozen = {name: p for name, p in model.named_parameters() if name not in head and ".adapter." not in name}
        assert {p.dtype for p in frozen.values()} == {torch.bfloat16 if lower else torch.float32}
        losses.append(loss.item())
        prints.append(fingerprint(model, head))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert prints[0] == prints[1]


def test_only_adapters_get_a_lowered_base(command, tmp_path, monkeypatch):
    """What trains the base's own weights keeps them in fp32, under Lightning's autocast."""
    seen = {}

    def spy(adapted, *args, **kwargs):
        seen[adapted.variant.name] = {p.dtype for p in adapted.model.parameters() if not p.requires_grad}
        raise KeyboardInterrupt

    monkeypatch.setattr(modules.training.run, "FineTuner", spy)
    for variant in ("lora", "ft_top2", "head"):
        (run,) = planned(command, variant, trainer={"precision": "bf16-mixed"}, results_dir=str(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            modules.training.run.run(run)
    assert seen == {"lora": {torch.bfloat16}, "ft_top2": {torch.float32}, "head": {torch.bfloat16}}


@pytest.mark.parametrize(
    ("trainer", "compile", "wanted"),
    [({}, "auto", True), ({}, "off", False), ({"devices": 2}, "auto", True), ({"strategy": "ddp"}, "auto", True),
     ({"accelerator": "cpu"}, "auto", False), ({"num_nodes": 2}, "auto", True), ({"strategy": "fsdp2"}, "auto", False)],
)  # fmt: skip
def test_where_graphs_are_used(command, monkeypatch, trainer, compile, wanted):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # two machines need a launcher
    (run,) = planned(command, trainer=trainer, compile=compile)
    assert not acceleration.uses_graphs(run, "32-true") or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert acceleration.uses_graphs(run, "32-true") is wanted
    assert not acceleration.uses_graphs(run, "16-mixed")


def followed(variant: str, captured: bool, device: str, lower: bool = False) -> tuple[list[float], dict, GraphedStep]:
    """Losses and weights of 36 steps over three widths, clipping, schedule and hooks included: of the graphed step and
    optimizer, or of autograd and torch's AdamW; and the step."""
    model = MODELS["roberta"]().to(device)
    method = resolve(variant)(**small(variant))
    mixed = lower and bool(list(method.trainable(model)))
    if lower and not mixed:
        lower_frozen(model, torch.bfloat16)
    adapted = attach(model, method, 0)

    def batch_of(number: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(number % 12)
        ids = torch.randint(5, 50, (4, (6, 8, 12)[number % 3]), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, -2:] = variant not in HOOKS
        return {"input_ids": ids, "attention_mask": mask}

    def loss_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(**batch).logits.float(), batch["input_ids"][:, 0] % 2)

    adapted.init_from_data([batch_of(number) for number in range(3)], loss_of)
    parameters = list(adapted.trained().values())
    now = torch.zeros((), dtype=torch.int64, device=device)

    def compute(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        adapted.tell_mask(batch["attention_mask"])
        with torch.autocast(device, torch.bfloat16, enabled=mixed), accelerated(adapted):
            loss = loss_of(batch)
        penalty = adapted.penalty(now, 36)
        return loss if penalty is None else loss + penalty, loss

    groups, step = adapted.param_groups(1e-3, None, 0.01), GraphedStep(compute, parameters)
    optimizer = adapted.optimizer(groups)
    if optimizer is None:
        optimizer = GraphedAdamW(groups, max_norm=1.0) if captured else torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 100)
    losses = []
    for number in range(36):
        batch = batch_of(number)
        now.fill_(number + 1)
        if captured:
            step.zero()
            loss = step(batch)[1]
        else:
            optimizer.zero_grad()
            total, loss = compute({name: tensor.to(device) for name, tensor in batch.items()})
            total.backward()
        losses.append(loss.item())
        adapted.before_step(number + 1, 36)
        if not isinstance(optimizer, GraphedAdamW):
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        adapted.after_step(number + 1, 36, optimizer)
        schedule.step()
    return losses, {name: p.detach().cpu().clone() for name, p in adapted.trained().items()}, step


@GPU
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("variant", [*VARIANTS, *HOOKS, *MADE])
def test_captured_steps_equal_eager_ones(variant, lower):
    """Against autograd and torch's AdamW; with hooks, weights too."""
    losses, weights, _ = followed(variant, False, "cuda", lower)
    ours, own, step = followed(variant, True, "cuda", lower)
    assert step.failure is None and len(step._graphs) == 3
    assert ours == pytest.approx(losses, rel=5e-2 if lower else 1e-3)
    if variant in HOOKS and not lower:
        assert off(own, weights) < NEAR


@pytest.mark.parametrize("variant", HOOKS)
def test_hooks_do_the_same_on_the_path_of_graphs(variant, monkeypatch):
    """Without capturing any, on the CPU; the optimizer reads gradients where they were in its first step, as its graph
    does."""
    update = GraphedAdamW._update

    def at_their_places(self):
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.places = vars(self).get("places") or [p.grad.detach() for p in parameters]
        for parameter, place in zip(parameters, self.places, strict=True):
            parameter.grad = place
        update(self)

    monkeypatch.setattr(GraphedAdamW, "EAGER", 10**9)
    monkeypatch.setattr(GraphedAdamW, "_update", at_their_places)
    (losses, weights, _), (ours, own, _) = (followed(variant, captured, "cpu") for captured in (False, True))
    assert ours == pytest.approx(losses, rel=1e-5) and off(own, weights) < 1e-5


UNSTACKED = {"eva", "ft_top2", "full", "galore"}
"""Methods whose seeds are trained one after the other."""


@GPU
@pytest.mark.parametrize(
    "adapters, name", [(n, each) for n in (1, 3) for each in names() if n == 1 or each not in UNSTACKED]
)
def test_every_method_is_captured(name, adapters):
    """Alone and with stacked seeds: what looks at a value on the device cannot be."""
    adapted = attach(MODELS["roberta"]().cuda(), fitting(name), 0, name="0")
    for seed in range(1, adapters):
        adapted.add(str(seed), fitting(name), seed)
    trained = Stack(adapted, list(adapted.adapters)) if adapters > 1 else adapted

    def compute(batch):
        with accelerated(trained):
            loss = trained.model(**batch).logits.square().mean()
        return loss, loss

    step = GraphedStep(compute, trained.trained().values())
    ids = torch.randint(5, 50, (6, 8), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        step.zero()
        step({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert step.failure is None and len(step._graphs) == 1


def dropping(model: torch.nn.Module, look: bool):
    """A step with dropout; to ``look`` at a value is what no capture can have."""

    def compute(batch):
        loss = F.dropout(model(batch["x"]), 0.5).square().sum()
        if look:
            loss.item()
        return loss, loss

    return compute


@GPU
def test_a_failed_capture_leaves_eager_steps_and_says_why():
    model = torch.nn.Linear(64, 64).cuda()
    batch = {"x": torch.ones(8, 64, device="cuda")}
    step = GraphedStep(dropping(model, look=True), model.parameters())
    step.zero()
    step(batch)
    gradient, stream = model.weight.grad.clone(), torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="training steps are eager, as no CUDA graph can be captured: .*captur"):
        losses = [step(batch)[0].item()]
    losses += [step(batch)[0].item() for _ in range(3)]
    assert len(set(losses)) == 4 and step.failure and not step._graphs  # something else is dropped each time
    assert torch.cuda.current_stream() == stream and not torch.equal(model.weight.grad, gradient)
    other = GraphedStep(dropping(model, look=False), model.parameters())
    other.zero()
    losses = [other(batch)[0].item() for _ in range(4)]
    assert other._graphs and len(set(losses)) == 4


@GPU
def test_no_garbage_is_collected_in_a_capture():
    """Graphs of an earlier run may be among it; the capture would fail."""
    model = torch.nn.Linear(64, 64).cuda()
    batch = {"x": torch.ones(8, 64, device="cuda")}
    compute, lists = dropping(model, look=False), []

    def collected(batch):
        found = compute(batch)
        lists.append([[] for _ in range(10**5)])  # what Python collects garbage after
        return found

    earlier = GraphedStep(compute, model.parameters(), patience=0)
    earlier.zero()
    earlier(batch)
    assert earlier._graphs
    step = GraphedStep(collected, model.parameters())
    step.zero()
    step(batch)
    gc.collect()
    earlier.itself = earlier
    del earlier
    step(batch)
    assert step.failure is None and step._graphs
