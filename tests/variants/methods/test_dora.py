"""DoRA against PEFT, against the equations of its paper, and what its norm costs."""

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.models import MODELS
from tests.support.parity import MAPS, adapter_size, compare, off, pair
from variants import DoRA, attach

IN, OUT, ROWS = 24, 20, 9


def layer(dtype=torch.float32, bias=True, **options):
    """One adapted map away from its start, and its module."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, OUT, bias=bias)).to(dtype)
    made = attach(model, DoRA(target="0", **({"r": 4, "alpha": 6.0} | options)), head=[]).layers[0]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made, model


def direct_norm(made):
    """‖W₀ + sBA‖ as written, in fp64."""
    W, A, B = (t.detach().double() for t in (made.site.weight(), made.lora_A, made.lora_B))
    return (W + made.scaling * B @ A).norm(dim=1)


@pytest.mark.parametrize("name", MAPS)
def test_equals_peft(name):
    """Norm per output feature and detached, as in the authors' code; the paper speaks of columns.

    On GPT-2 PEFT adapts the whole of c_attn; our default target is its slices q and v.
    """
    ours = DoRA(r=4, alpha=6.0, target=",".join(MAPS[name]))
    found = compare(pair(name, ours, peft.LoraConfig(r=4, lora_alpha=6, target_modules=MAPS[name], use_dora=True)))
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("name", MAPS)
def test_dropout_equals_peft(name):
    """In the official meaning, our default, dropout acts on both corrections and not on W₀x."""
    ours = DoRA(r=4, dropout=0.3, target=",".join(MAPS[name]))
    theirs = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.3, target_modules=MAPS[name], use_dora=True)
    found = compare(pair(name, ours, theirs), seed=7)
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["official", "lora-only"])
def test_dropout_modes(mode, bias):
    """Against the equations with the mask written out."""
    made, model = layer(dropout=0.5, dropout_mode=mode, bias=bias)
    model.train()
    x = torch.randn(ROWS, IN)
    torch.manual_seed(1)
    mask = F.dropout(torch.ones_like(x), 0.5)
    torch.manual_seed(1)
    found = model(x)
    W, b = made.site.weight(), made.site.bias() if bias else torch.zeros(OUT)
    V = made.scaling * made.lora_B @ made.lora_A
    g = made.magnitude / (W + V).norm(dim=1)
    if mode == "official":
        expected = x @ W.T + b + (x * mask) @ (g[:, None] * (W + V) - W).T
    else:
        expected = g * (x @ W.T + (x * mask) @ V.T) + b
    assert off(found, expected) < 1e-5
    model.eval()
    assert off(model(x), x @ (g[:, None] * (W + V)).T + b) < 1e-5


def test_gradient_is_the_papers():
    """Section 4.3: with C = ‖V'‖ held constant the gradient to V' is (m/C)·∂L/∂W'; without, it is another."""
    made, model = layer()
    x, pull = torch.randn(ROWS, IN), torch.randn(ROWS, OUT)
    (model(x) * pull).sum().backward()
    to_weight = pull.T @ x  # ∂L/∂W'
    C, s = direct_norm(made).float(), made.scaling
    to_direction = (made.magnitude / C)[:, None] * to_weight
    V = made.site.weight() + s * made.lora_B @ made.lora_A
    for tensor, expected in (
        (made.lora_B, s * to_direction @ made.lora_A.T),
        (made.lora_A, s * made.lora_B.T @ to_direction),
        (made.magnitude, (to_weight * V).sum(1) / C),
    ):
        assert off(tensor.grad, expected) < 1e-5 * expected.abs().max().item()


def test_gradcheck(monkeypatch):
    """fp64, the norm held fixed as the backward holds it."""
    made, _ = layer(torch.float64)
    norm = made.norm().clone()
    assert norm.dtype == torch.float64 and off(norm, direct_norm(made)) < 1e-12
    monkeypatch.setattr(made, "norm", lambda: norm)
    x, y = torch.randn(3, IN, dtype=torch.float64), torch.randn(3, OUT, dtype=torch.float64)
    names = [name for name, _ in made.named_parameters()]

    def function(x, y, *tensors):
        return torch.func.functional_call(made, dict(zip(names, tensors, strict=True)), (x, y))

    tensors = [t.detach().clone().requires_grad_(True) for t in (x, y, *made.parameters())]
    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm(dtype, scale):
    """Its expanded form equals the norm of the sum, in fp32 over a bf16 base and under autocast too."""
    made, _ = layer(dtype, alpha=4 * scale)
    expected = direct_norm(made)
    found = made.norm()
    assert found.dtype == torch.float32 and not found.requires_grad
    assert ((found - expected) / expected).abs().max() < 2e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.norm(), found)
    whole = made.to(torch.bfloat16).norm()  # the adapter itself in bf16
    assert whole.dtype == torch.float32 and ((whole - direct_norm(made)) / expected).abs().max() < 4e-3


def test_no_norm_is_zero():
    """A direction that cancels the weight leaves a finite output."""
    made, model = layer(r=20, alpha=20.0)
    with torch.no_grad():
        made.lora_A.copy_(torch.eye(20, IN))
        made.lora_B.copy_(-made.site.weight()[:, :20])
        made.site.weight()[:, 20:] = 0
    assert model(torch.randn(2, IN)).isfinite().all()


def test_start():
    """m = ‖W₀‖, B = 0: the output is the base's, bit for bit."""
    model = MODELS["roberta"]()
    x = torch.randn(4, 16)
    linear = model.roberta.encoder.layer[0].attention.self.query
    before = linear(x)
    made = attach(model, DoRA(r=4)).layers[0]
    assert torch.equal(linear(x), before)
    assert off(made.magnitude, linear.weight.norm(dim=1)) < 1e-6
    assert not made.lora_B.any() and made.lora_A.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dropout": 0.5}, {"dropout": 0.5, "dropout_mode": "lora-only"}])
def test_compiles_as_one_graph(options):
    made, model = layer(**options)
    model.train()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(ROWS, IN)
    for context in (torch.autocast("cpu", torch.bfloat16, enabled=False), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found = compiled(x)
            expected = model(x)
        found.sum().backward()
        assert found.dtype == expected.dtype
        assert options or off(found, expected) < 1e-5
    torch._dynamo.reset()


def test_published_size():
    """LoRA's 294,912 and one magnitude for each of 24 x 768 output features."""
    assert adapter_size("roberta-base", DoRA(r=8)) == 313_344
