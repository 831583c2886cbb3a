"""AdaLoRA's allocation against PEFT's and against a reference written from the paper; budget, penalty, shrinking."""

import copy

import peft
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from tests.support.models import LABELS, MODELS, inputs
from tests.support.parity import adapter_size, off
from tests.support.reference_adalora import Reference
from variants import AdaLoRA, VariantError, attach, load
from variants.formats.native import save_adapter

FACTORS = {"P": "lora_B", "Lambda": "lora_E", "Q": "lora_A"}
SMALL = {"init_r": 6, "target_r": 2, "target": "all-linear"}


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(4)


def made(dtype=torch.float32, model="roberta", **options):
    """A tiny model with every map adapted (12 of three shapes) and Λ away from zero."""
    adapted = attach(MODELS[model]().to(dtype), AdaLoRA(**(SMALL | options)))
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in adapted.layers:
            layer.lora_E.normal_(0, 0.5, generator=rng)
    return adapted


def factors(adapted):
    return [getattr(layer, name) for layer in adapted.layers for name in FACTORS.values()]


def draw_gradients(tensors, rng, ties=False):
    """Gradients of one step; with ties, many are zero and the others equal but for their sign."""
    for tensor in tensors:
        noise = torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
        tensor.grad = noise.sign() * (noise.abs() > 1.2) if ties else noise


def run(adapted, steps, total, rng, start=1):
    """Descent along drawn gradients, the variant's own step after each."""
    optimizer = torch.optim.SGD(factors(adapted), lr=0.01)
    for step in range(start, steps + 1):
        draw_gradients(factors(adapted), rng)
        optimizer.step()
        adapted.after_step(step, total)
    return adapted


def left(adapted):
    """Which λ are not zero, for each layer."""
    return [(layer.lora_E != 0).tolist() for layer in adapted.layers]


def logits(adapted):
    with torch.no_grad():
        return adapted.model(**inputs(adapted.model.config.model_type)).logits


# ---- against PEFT ------------------------------------------------------------------------------------------


def peft_twin(adapted, **options):
    """PEFT's AdaLoRA with the same values, and its factors in the order of ours."""
    variant = adapted.variant
    config = peft.AdaLoraConfig(
        init_r=variant.init_r,
        target_r=variant.target_r,
        lora_alpha=int(variant.alpha),
        target_modules=[layer.site.path for layer in adapted.layers],
        **{"total_step": 200, **options},
    )
    theirs = peft.get_peft_model(MODELS["roberta"](), config).eval()
    modules = [theirs.base_model.model.get_submodule(layer.site.path) for layer in adapted.layers]
    twins = [getattr(module, name)["default"] for module in modules for name in FACTORS.values()]
    with torch.no_grad():
        for mine, other in zip(factors(adapted), twins, strict=True):
            other.copy_(mine.view_as(other))
    return theirs, twins


@pytest.mark.parametrize("interval", [1, 5])
def test_ranks_and_masks_equal_pefts_at_every_step(interval, rng):
    """Both take the code's side against the paper: the schedule without -t_f, importance resting from step T - t_f on.

    They differ where scores tie (PEFT prunes all that equal the threshold, ours keeps the budget exactly): not here.
    """
    adapted = made(tinit=20, tfinal=60, deltaT=interval)
    theirs, twins = peft_twin(adapted, tinit=20, tfinal=60, deltaT=interval)
    optimizers = [torch.optim.SGD(tensors, lr=0.01) for tensors in (factors(adapted), twins)]
    budgets = []
    for step in range(1, 201):
        draw_gradients(factors(adapted), rng)
        for mine, other in zip(factors(adapted), twins, strict=True):
            other.grad = mine.grad.view_as(other)
        for optimizer in optimizers:
            optimizer.step()
        adapted.after_step(step, 200)
        theirs.base_model.update_and_allocate(step)
        masks = [(other.view(-1) != 0).tolist() for other in twins[1::3]]
        assert left(adapted) == masks, f"step {step}"
        budgets.append(sum(map(sum, masks)))
    assert max(off(a, b.view_as(a)) for a, b in zip(factors(adapted), twins, strict=True)) < 1e-5
    assert budgets[0] == 72 and set(budgets[139:]) == {24} and len(set(budgets)) > 10
    ranks = [sum(mask) for mask in left(adapted)]
    assert len(set(ranks)) > 1  # an uneven allocation: something was at stake


def test_forward_gradients_and_penalty_equal_pefts():
    """PEFT scales by alpha/(r + 1e-5), the paper and ours by alpha/r: a relative difference of 2e-6.

    The penalty is that of both codes, the mean of unsquared norms; the paper has the sum of squared ones.
    """
    adapted = made(orth_weight=0.3)
    theirs, twins = peft_twin(adapted, orth_reg_weight=0.3)
    batch, labels = inputs("roberta"), torch.arange(3) % LABELS
    mine, other = (model(**batch).logits for model in (adapted.model, theirs))
    assert off(mine, other) < 1e-5
    (F.cross_entropy(mine, labels) + adapted.penalty(1, 1)).backward()
    with_penalty = theirs.base_model(**batch, labels=labels).loss  # which PeftModel itself passes by
    assert off(F.cross_entropy(mine, labels) + adapted.penalty(1, 1), with_penalty) < 1e-5
    assert off(adapted.penalty(1, 1), with_penalty - F.cross_entropy(other, labels)) < 1e-5
    with_penalty.backward()
    for a, b in zip(factors(adapted), twins, strict=True):
        assert off(a.grad, b.grad.view_as(a)) < 1e-5
    assert adapted.merge() < 1e-5
    merged = dict(theirs.merge_and_unload().named_parameters())
    assert max(off(p, merged[k]) for k, p in adapted.model.named_parameters() if k in merged) < 1e-5


def test_dropout_equals_pefts():
    adapted = made(dropout=0.4)
    theirs, _ = peft_twin(adapted, lora_dropout=0.4)
    outputs = []
    for model in (adapted.model.train(), theirs.train()):
        torch.manual_seed(9)
        outputs.append(model(**inputs("roberta")).logits)
    assert off(*outputs) < 1e-5
    assert off(outputs[0], adapted.model.eval()(**inputs("roberta")).logits) > 1e-3


# ---- against the paper -------------------------------------------------------------------------------------


def matrices(tensors):
    """What the reference calls a matrix, from P, Λ and Q of each layer in turn."""
    arrays = [t.detach().numpy().copy() for t in tensors]
    return [dict(zip(FACTORS, arrays[i : i + 3], strict=True)) for i in range(0, len(arrays), 3)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("interval", "target_r"), [(1, 2), (7, 2), (1, 0), (1, 6)])
def test_equals_the_reference_at_every_step(interval, target_r, ties, rng):
    """In fp64; with ties, where PEFT loses part of its budget, and down to rank 0 or with nothing to prune."""
    steps, phases = 60, {"warmup": 6, "final": 15}
    adapted = made(torch.float64, tinit=0.1, tfinal=0.25, deltaT=interval, target_r=target_r, beta1=0.8, beta2=0.7)
    reference = Reference(12 * target_r, total=steps, interval=interval, beta1=0.8, beta2=0.7, **phases)
    if ties:  # equal layers, equal triplets
        with torch.no_grad():
            for tensor in factors(adapted):
                tensor.fill_(0.5)
    optimizer = torch.optim.SGD(factors(adapted), lr=0.01)
    for step in range(1, steps + 1):
        draw_gradients(factors(adapted), rng, ties)
        gradients = matrices([tensor.grad for tensor in factors(adapted)])
        optimizer.step()
        expected = reference.step(step, matrices(factors(adapted)), gradients)
        adapted.after_step(step, steps)
        for layer, lambdas in zip(adapted.layers, expected, strict=True):
            assert torch.equal(layer.lora_E.detach(), torch.from_numpy(lambdas)), f"step {step}"
        for figure in ("sensitivity", "uncertainty"):  # of no effect on ranks alone: Ū against the earlier Ī is Ū/β₁
            for layer, average in zip(adapted.layers, getattr(reference, figure), strict=True):
                for ours, name in FACTORS.items():
                    found = getattr(layer, f"{name}_{figure}")
                    assert off(found, torch.from_numpy(average[ours])) < 1e-12, f"step {step}: {figure} of {ours}"
        allocated = step >= 45 or (step > 6 and step % interval == 0)
        if allocated:
            budget = reference.budget(step, 72)
            assert sum(int(layer.kept.sum()) for layer in adapted.layers) == budget
            assert ties or sum(map(sum, left(adapted))) == budget
    assert sum(int(layer.kept.sum()) for layer in adapted.layers) == 12 * target_r


def test_budget_is_exact_when_all_scores_are_equal():
    """Then the first layers keep theirs, in the model's order."""
    adapted = made(tinit=0, tfinal=1, target_r=2)
    for tensor in factors(adapted):
        tensor.grad = torch.zeros_like(tensor)
    for step in range(1, 11):
        adapted.after_step(step, 10)
        budget = adapted.variant.budget(step, 10, 72, 24)
        kept = torch.cat([layer.kept for layer in adapted.layers])
        assert kept.sum() == budget and kept[:budget].all()
    assert budget == 24


def test_schedule():
    """Cubic, from all triplets to the target; phases are shares of the steps below 1, and steps from 1 on."""
    variant = AdaLoRA(tinit=0.1, tfinal=0.5)
    assert variant.phases(1000) == (100, 500)
    assert AdaLoRA(tinit=30, tfinal=0.5).phases(1000) == (30, 500)
    assert AdaLoRA(tinit=0, tfinal=1).phases(1000) == (0, 999)
    budgets = [variant.budget(step, 1000, 864, 576) for step in range(1, 1001)]
    assert budgets[:100] == [864] * 100 and set(budgets[499:]) == {576}
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[300 - 1] == 576 + 288 // 8  # half-way: an eighth of what is to go
    for total in (1, 2, 3, 10):  # a smoke test of any length goes through
        assert variant.phases(total)[0] < variant.phases(total)[1]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"init_r": 4, "target_r": 5}, "target_r=5"),
        ({"tinit": 0.5, "tfinal": 0.5}, "leave no step"),
        ({"tinit": -1}, "leave no step"),
        ({"deltaT": 0}, "deltaT"),
    ],
)
def test_what_cannot_work_is_refused(options, part):
    with pytest.raises(VariantError, match=part):
        AdaLoRA(**options)


def test_phases_that_do_not_fit_are_refused():
    with pytest.raises(VariantError, match="do not fit into 100 optimizer steps"):
        made(tinit=60, tfinal=40).after_step(1, 100)
    with pytest.raises(VariantError, match="init_r=17"):
        made(init_r=17)


def test_initial_values():
    """P and Q normal(0, 0.02) as in the authors' code, Λ zero: the output is the base's."""
    model = MODELS["roberta"](hidden_size=64, intermediate_size=80)
    before = model(**inputs("roberta")).logits
    adapted = attach(model, AdaLoRA(init_r=12, alpha=6.0, target="all-linear"))
    for name in ("lora_A", "lora_B"):
        values = torch.cat([getattr(layer, name).flatten() for layer in adapted.layers])
        assert values.std().item() == pytest.approx(0.02, rel=0.03) and abs(values.mean().item()) < 1e-3
        assert values.abs().max() > 3 * 0.02
    assert all(not layer.lora_E.any() and layer.scaling == 0.5 for layer in adapted.layers)
    assert torch.equal(model(**inputs("roberta")).logits, before)


# ---- batched work ------------------------------------------------------------------------------------------


def test_no_value_is_read_on_the_host():
    """Every step runs on tensors that have no values."""
    adapted = attach(MODELS["roberta"]().to("meta"), AdaLoRA(**SMALL, tinit=1, tfinal=2))
    for tensor in factors(adapted):
        tensor.grad = torch.empty_like(tensor)
    for step in range(1, 11):
        adapted.after_step(step, 10)
    assert adapted.penalty(1, 1).is_meta


def test_penalty_is_computed_in_full_precision():
    adapted = made()
    expected = adapted.penalty(1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapted.penalty(1, 1), expected)


@pytest.mark.slow
def test_compiles_as_one_graph(rng):
    """Before and after pruning, without a new graph."""
    adapted = run(made(model="gpt2", tinit=0, tfinal=2, target="c_attn"), 3, 10, rng)
    layer, x = adapted.layers[0], torch.randn(4, 16)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps in (5, 10):
        with torch.compiler.set_stance("fail_on_recompile" if steps == 10 else "default"):
            assert off(compiled(x, torch.zeros(4, 48)), layer(x, torch.zeros(4, 48))) < 1e-6
        run(adapted, steps, 10, rng, start=4)
    torch._dynamo.reset()


# ---- state -------------------------------------------------------------------------------------------------


def test_ranks_are_state(rng):
    """Stopped and gone on from a checkpoint, training allocates as it does in one go."""
    options = {"tinit": 5, "tfinal": 10, "deltaT": 2}
    whole = run(made(**options), 40, 40, rng)
    for stop in (3, 20, 35):
        again = torch.Generator().manual_seed(4)
        first = run(made(**options), stop, 40, again)
        state = {key: tensor.clone() for key, tensor in first.state_dict().items()}
        second = made(**options)
        second.load_state_dict(state)
        run(second, 40, 40, again, start=stop + 1)
        for mine, other in zip(factors(second), factors(whole), strict=True):
            assert torch.equal(mine, other), stop


def test_metrics(rng):
    adapted = run(made(tinit=0, tfinal=5), 20, 20, rng)
    figures = adapted.metrics()
    assert figures["budget"] == 24 and figures["mean_rank"] == 2
    for layer, mask in zip(adapted.layers, left(adapted), strict=True):
        assert figures[f"rank/{layer.site.path}"] == sum(mask)


@pytest.fixture
def pruned(rng):
    """After training; one layer is left without a triplet."""
    adapted = made(tinit=0, tfinal=5)
    with torch.no_grad():
        for tensor in (adapted.layers[3].lora_A, adapted.layers[3].lora_B, adapted.layers[3].lora_E):
            tensor.mul_(1e-3)
    run(adapted, 20, 20, rng)
    ranks = [sum(mask) for mask in left(adapted)]
    assert ranks[3] == 0 and sum(ranks) == 24 and max(ranks) > 2
    return adapted


def test_file_holds_what_is_left(pruned, tmp_path):
    """Pruned triplets stay out of it; the checkpoint has all; what is loaded computes the same, bit for bit."""
    save_adapter(pruned, tmp_path)
    stored = load_file(tmp_path / "adapter.safetensors")
    for layer, mask in zip(pruned.layers, left(pruned), strict=True):
        assert stored[f"{layer.site.path}.lora_A"].shape == (sum(mask), layer.site.in_features)
        assert stored[f"{layer.site.path}.lora_B"].shape == (layer.site.out_features, sum(mask))
        assert stored[f"{layer.site.path}.lora_E"].shape == (sum(mask),)
    assert not [key for key in stored if "sensitivity" in key or "uncertainty" in key]
    assert all(t.shape[0] == 6 for key, t in pruned.state_dict().items() if key.endswith(("lora_A", "lora_E")))
    loaded = load(MODELS["roberta"](), tmp_path)
    assert torch.equal(logits(loaded), logits(pruned))
    assert left(loaded) == left(pruned) and loaded.metrics() == pruned.metrics()


def test_file_of_an_unfinished_run(rng, tmp_path):
    """Between two allocations a pruned triplet has a say again, and is kept."""
    adapted = run(made(tinit=0, tfinal=5, deltaT=10), 13, 30, rng)
    assert sum(map(sum, left(adapted))) == 72 and adapted.metrics()["budget"] < 60
    save_adapter(adapted, tmp_path)
    loaded = load(MODELS["roberta"](), tmp_path)
    assert torch.equal(logits(loaded), logits(adapted))


@pytest.mark.parametrize("shrink", [False, True])
def test_training_goes_on_from_a_file(pruned, rng, tmp_path, shrink):
    """As from MNLI to MRPC: the triplets that are left compete anew."""
    if shrink:
        for layer in pruned.layers:
            layer.shrink()
    save_adapter(pruned, tmp_path)
    loaded = load(MODELS["roberta"](), tmp_path)
    assert torch.equal(logits(loaded), logits(pruned))
    run(loaded, 20, 20, rng)
    assert loaded.metrics()["budget"] == 24


def test_shrink(pruned):
    """Same outputs from smaller tensors, which train, merge, copy and save as before; rank 0 included."""
    before = logits(pruned)
    sizes = [
        sum(mask) * (layer.site.in_features + layer.site.out_features + 1)
        for layer, mask in zip(pruned.layers, left(pruned), strict=True)
    ]
    for layer in pruned.layers:
        layer.shrink()
    assert pruned.count()["adapter"] == sum(sizes)
    assert len(pruned.layers[3].lora_E) == 0
    assert off(logits(pruned), before) < 1e-6
    assert pruned.metrics()["budget"] == 24
    twin = copy.deepcopy(pruned.model)
    assert torch.equal(twin(**inputs("roberta")).logits, logits(pruned))
    optimizer = torch.optim.AdamW(pruned.param_groups(1e-2))
    loss = pruned.model(**inputs("roberta")).logits.square().sum() + pruned.penalty(1, 1)
    loss.backward()
    optimizer.step()
    pruned.after_step(20, 20)
    assert off(logits(pruned), before) > 1e-3
    assert pruned.merge() < 1e-5


def test_damaged_files_are_refused(pruned):
    """A file for another width, or whose factors disagree in rank, is named."""
    state = pruned.state_dict(trimmed=True)
    key = f"{pruned.layers[0].site.path}.lora_A"
    rank = len(state[key])
    for wrong, part in ((torch.zeros(rank + 1, 16), f"ranks {rank + 1}"), (torch.zeros(rank, 17), "17")):
        with pytest.raises(VariantError, match=part):
            made().load_state_dict(state | {key: wrong})


def test_published_size():
    """Table 1: 1.99M of DeBERTa-v3-base train from r = 12 (printed as the final 1.27M), in six kinds of maps."""
    assert adapter_size("deberta-v3-base", AdaLoRA(init_r=12, target="all-linear")) == 1_991_520


class Branches(nn.Module):
    """Two maps, of which a pass uses the one that it is told to: as a router, or layer drop, has it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x, first):
        return (self.a if first else self.b)(x)


@pytest.mark.parametrize("regularised", [False, True])
def test_a_layer_that_no_pass_reached_has_no_gradient_and_counts_as_zero(regularised):
    """AdaLoRA #21, peft #1721: the averages of such a layer decay, and the budget is spent on the others."""
    torch.manual_seed(0)
    adapted = attach(Branches(), AdaLoRA(init_r=4, target_r=2, tinit=1, tfinal=5, target="a,b"), head=[])
    optimizer = torch.optim.AdamW(adapted.param_groups(1e-2))
    for step in range(1, 11):
        loss = adapted.model(torch.randn(4, 8), True).square().sum()
        (loss + adapted.penalty(1, 1) if regularised else loss).backward()
        optimizer.step()
        adapted.after_step(step, 10)
        optimizer.zero_grad()
    used, unused = adapted.layers
    assert not unused.lora_E_sensitivity.any() and unused.lora_B_sensitivity.any() == regularised
    assert int(used.kept.sum()) == 4 and not unused.kept.any()
