"""The contract: it holds for every variant of the registry and for outsiders, and each property can fail."""

from __future__ import annotations

import dataclasses
import logging
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from variants import AdapterLayer, LoRA, Variant, attach, registry
from variants.check import FAILED, HELD, NOT_APPLICABLE, check, main, properties, table
from variants.contract import ddp as contract_ddp
from variants.contract.models import Subject, one_thread, shift
from variants.methods.lora import LoRALayer

logging.getLogger("torch.__trace").addFilter(lambda record: False)  # thousands of lines beside every failure
ROOT = Path(__file__).resolve().parents[3]
ALONE = [name for name in properties() if name != contract_ddp.NAME]  # DDP needs processes: all variants share a pair


# ---- methods from outside the package, as an inventor would write them ----------------------------------------


class PiSSALayer(AdapterLayer):
    """The principal singular triples train, the rest of W stays (arXiv 2404.02948)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        dtype = torch.promote_types(site.dtype, torch.float32)
        u, s, vt = torch.linalg.svd(site.weight().detach().to(dtype), full_matrices=False)
        root = s[: config.r].sqrt()
        self.lora_A = nn.Parameter(root[:, None] * vt[: config.r])
        self.lora_B = nn.Parameter(u[:, : config.r] * root)

    def delta_weight(self):
        return self.lora_B @ self.lora_A


@dataclass
class PiSSA(Variant):
    r: int = 4
    layer = PiSSALayer
    subtract_initial = True


class IA3Layer(AdapterLayer):
    """The output is scaled, bias included (arXiv 2205.05638)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.scale = nn.Parameter(torch.ones(site.out_features))

    def forward(self, x, y):
        return y * self.scale

    def merged(self, weight, bias):
        return weight * self.scale[:, None], None if bias is None else bias * self.scale


@dataclass
class IA3(Variant):
    target: str = "all-linear"
    layer = IA3Layer


class InputScaleLayer(AdapterLayer):
    """The input is scaled: the base map sees another x."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.scale = nn.Parameter(torch.ones(site.in_features))

    def pre(self, x):
        return x * self.scale

    def forward(self, x, y):
        return y

    def merged(self, weight, bias):
        return weight * self.scale, bias


@dataclass
class InputScale(Variant):
    layer = InputScaleLayer


class BottleneckLayer(AdapterLayer):
    """A small perceptron on the output: not linear, so that it cannot be merged (arXiv 1902.00751)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.down = nn.Parameter(torch.randn(config.r, site.out_features, generator=rng) / math.sqrt(site.out_features))
        self.up = nn.Parameter(torch.zeros(site.out_features, config.r))

    def forward(self, x, y):
        return y + F.linear(torch.tanh(F.linear(y, self.down)), self.up)


@dataclass
class Bottleneck(Variant):
    r: int = 4
    layer = BottleneckLayer
    mergeable = False


@dataclass
class BitFit(registry.BaseVariant):
    """Biases of the backbone train in place (arXiv 2106.10199)."""

    def trainable(self, model):
        return [name for name, _ in model.named_parameters() if name.endswith(".bias")]


OUTSIDERS = [PiSSA, IA3, InputScale, Bottleneck, BitFit]

# ---- variants that break the contract, each in one way --------------------------------------------------------

BROKEN: dict[type[Variant], set[str]] = {}


def breaks(*expected: str, **attributes):
    """Make a variant of the decorated layer, and note which properties it must be seen to break."""

    def decorate(layer):
        name = layer.__name__.removesuffix("Layer")
        members = {"layer": layer, "__module__": __name__, "__annotations__": {}, **attributes}
        variant = dataclass(type(name, (LoRA,), members))
        setattr(sys.modules[__name__], name, variant)  # where pickle looks for it
        BROKEN[variant] = set(expected)
        return layer

    return decorate


@breaks("identity at start")
class StartsElsewhereLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        nn.init.normal_(self.lora_B, generator=rng)


@breaks("output moves")
class WithoutEffectLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.shift = nn.Parameter(torch.zeros(site.out_features))

    def forward(self, x, y):
        return super().forward(x, y) + (self.shift - self.shift.detach())


@breaks("gradients")
class TrainsTheBaseLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        site.module.bias.requires_grad_(True)


@breaks("gradients", "parameter count", "DDP")
class UnreachedLayer(LoRALayer):
    def forward(self, x, y):
        return y + self.scaling * F.linear(F.linear(x, self.lora_A.detach()), self.lora_B)


@breaks("output moves", "gradients", "parameter count", "DDP")
class UnusedLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.forgotten = nn.Parameter(torch.zeros(3))


@breaks("merge")
class MergesAnotherDeltaLayer(LoRALayer):
    def delta_weight(self):
        return 1.01 * super().delta_weight()


@breaks("merge")
class MergesInPlaceLayer(LoRALayer):
    def merged(self, weight, bias):
        bias += 0.5
        return weight + self.delta_weight(), bias - 0.5


@breaks("merge")
class NotLinearLayer(LoRALayer):
    def forward(self, x, y):
        return y + self.scaling * F.linear(torch.tanh(F.linear(x, self.lora_A)), self.lora_B)


def _grow(self, layers, step, total_steps):
    for layer in layers:
        layer.gain.mul_(1.1)


@breaks("round trip", after_step=_grow)
class ForgetsStateLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("gain", torch.ones(()), persistent=False)

    def delta_weight(self):
        return self.gain * super().delta_weight()

    def forward(self, x, y):
        return y + F.linear(x, self.delta_weight())


@breaks("bf16")
class IgnoresDtypesLayer(LoRALayer):
    def forward(self, x, y):
        return torch.lerp(y, super().forward(x, y), self.one)  # y is bf16, the weight is not

    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("one", torch.ones(1))


@breaks("bf16")
class OverflowsLayer(LoRALayer):
    def forward(self, x, y):
        rough = y.dtype == torch.bfloat16
        return super().forward(x, y) * (float("inf") if rough else 1.0)


@breaks("fp64")
class InSinglePrecisionLayer(LoRALayer):
    def forward(self, x, y):
        delta = self.delta_weight()
        return y + F.linear(x, delta.float().to(delta.dtype))


@breaks("fp64")
class RoundedConstantLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("norm", site.weight().detach().float().norm())

    def forward(self, x, y):
        return super().forward(x, y * (self.norm / self.site.weight().norm()))


@breaks("determinism")
class GlobalNoiseLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        nn.init.normal_(self.lora_A)


@breaks("determinism")
class SameUnderEverySeedLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, torch.Generator().manual_seed(len(site.path) + sum(map(ord, site.path))))


@breaks("determinism", shared=lambda self, sites, seed: {"number": len(sites)})
class DependsOnOthersLayer(LoRALayer):
    def __init__(self, site, config, rng, number):
        super().__init__(site, config, rng)
        nn.init.constant_(self.lora_A, 1 / number)


@breaks("copy")
class LambdaLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.activation = lambda x: x

    def forward(self, x, y):
        return self.activation(super().forward(x, y))


@breaks("compile")
class BreaksTheGraphLayer(LoRALayer):
    def forward(self, x, y):
        torch._dynamo.graph_break()
        return super().forward(x, y)


@breaks("compile")
class ComputesAnotherWhenCompiledLayer(LoRALayer):
    def forward(self, x, y):
        return super().forward(x, y) * (2 if torch.compiler.is_compiling() else 1)


@breaks("no host sync")
class CopiesToHostLayer(LoRALayer):
    def forward(self, x, y):
        return y + F.linear(x, self.delta_weight().cpu().to(x.device))


@breaks("no host sync", "compile")
class ReadsAValueLayer(LoRALayer):
    def forward(self, x, y):
        return y if self.lora_B.abs().max().item() > 1e9 else super().forward(x, y)


@breaks("parameter count")
class MaskedLayer(LoRALayer):
    def forward(self, x, y):
        mask = torch.ones_like(self.lora_A)
        mask[0] = 0
        return y + self.scaling * F.linear(F.linear(x, mask * self.lora_A), self.lora_B)

    def delta_weight(self):
        return self.scaling * self.lora_B[:, 1:] @ self.lora_A[1:]


@breaks("parameter count", param_groups=lambda self, layers, lr: [{"params": [x.lora_B for x in layers], "lr": lr}])
class LeavesOneOutLayer(LoRALayer):
    pass


@breaks("slice")
class NormOfTheWholeLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.scaling = self.scaling / site.module.weight.detach().square().sum().sqrt()

    def delta_weight(self):
        return self.scaling * (self.lora_B @ self.lora_A)

    factors = AdapterLayer.factors  # LoRA's have a number as their scale


@breaks("Conv1D")
class RowsOfTheModuleLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        rows = site.module.weight.detach()[site.start : site.stop]
        self.scaling = rows.square().sum() / site.out_features

    def delta_weight(self):
        return self.scaling * (self.lora_B @ self.lora_A)

    factors = AdapterLayer.factors


@breaks("learns")
class ReversedGradientLayer(LoRALayer):
    def forward(self, x, y):
        delta = F.linear(x, self.delta_weight())
        return y + 2 * delta.detach() - delta


@breaks("meta device")
class ReadsWeightsAtAttachLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.scaling = 1 + float(site.weight().detach().square().mean())


def _shrink_by_batch(self, layers, step, total_steps):
    with torch.no_grad():
        for layer in layers:
            layer.lora_B.mul_(1 - 0.1 * layer.seen.tanh())


@breaks("DDP", after_step=_shrink_by_batch)
class LocalStatisticsLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x, y):
        self.seen.copy_(x.detach().square().mean())
        return super().forward(x, y)


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    with one_thread():
        yield


# ---- tests ----------------------------------------------------------------------------------------------------

VARIANTS = {name: registry.resolve(name) for name in registry.BUILT_IN} | {cls.__name__: cls for cls in OUTSIDERS}


@pytest.fixture(scope="session")
def ddp() -> dict[str, str]:
    """Name of each variant -> why it fails under DDP; those expected to fail come last."""
    classes = [*VARIANTS.items(), *((cls.__name__, cls) for cls in BROKEN)]
    outcomes = contract_ddp.distributed([Subject.of(cls) for _, cls in classes])
    return dict(zip([name for name, _ in classes], outcomes, strict=True))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("item", ALONE)
def test_holds(item: str, name: str) -> None:
    (finding,) = check(VARIANTS[name], [item])
    assert finding.status != FAILED, finding.reason
    if finding.status == NOT_APPLICABLE:
        assert finding.reason


@pytest.mark.parametrize("name", VARIANTS)
def test_ddp_equals_one_process(ddp: dict[str, str], name: str) -> None:
    assert ddp[name] == ""


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_each_break_is_seen(cls: type[Variant], ddp: dict[str, str]) -> None:
    found = {f.property: f.reason for f in check(cls, ALONE) if f.status == FAILED}
    if ddp[cls.__name__]:
        found["DDP"] = ddp[cls.__name__]
    assert set(found) == BROKEN[cls], found
    assert all("\n" not in reason and reason for reason in found.values())


def test_each_property_can_fail() -> None:
    assert set().union(*BROKEN.values()) == set(properties())
    alone = {next(iter(found)) for found in BROKEN.values() if len(found) == 1}
    assert alone == set(properties())  # and each fails without pulling others along


# ---- shapes, ranks, dtypes and layouts ------------------------------------------------------------------------

ON_MAPS = [name for name, cls in VARIANTS.items() if issubclass(cls, Variant)]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.2}


def _with_rank(cls: type[Variant], rank: int) -> Variant:
    ranks = {f.name: rank for f in dataclasses.fields(cls) if f.name in ("r", "init_r", "target_r")}
    return cls(target="map", **ranks)


@pytest.mark.parametrize("name", ON_MAPS)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    wide=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    rank=st.integers(1, 20),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from([(7,), (1,), (0,), (2, 3), (0, 3), (3, 0), (2, 3, 4)]),
    bias=st.booleans(),
)
def test_any_shape_rank_dtype_and_layout(name, wide, rank, dtype, layout, bias) -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("map", nn.Linear(*wide, bias=bias, dtype=dtype))
    x = torch.randn(*layout, wide[0]).to(dtype)
    base = model(x).detach()
    adapted = attach(model, _with_rank(VARIANTS[name], min(rank, *wide)))

    def close(a, b):
        scale = 1 + b.abs().max().item() if b.numel() else 1
        return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, atol=TOLERANCE[dtype] * scale, rtol=0)

    if VARIANTS[name].identity_at_start:
        assert close(model(x), base)
    for index, tensor in enumerate(adapted.trained().values()):
        shift(tensor, index)
    output = model(x)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in adapted.trained().values())
    assert close(output, model(x.reshape(-1, wide[0])).reshape(*layout, wide[1]))  # a layout is no more than a shape
    if VARIANTS[name].mergeable:
        adapted.merge()
        assert close(model(x), output)
        adapted.unmerge()
        assert torch.equal(model(x), output)


# ---- the command ----------------------------------------------------------------------------------------------

INVENTION = """
from dataclasses import dataclass
import torch
from torch import nn
from variants import AdapterLayer, Variant

class RowScaleLayer(AdapterLayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.gain = nn.Parameter(torch.zeros(site.out_features, 1))

    def delta_weight(self):
        return config_gain(self.config) * self.gain * self.site.weight()

def config_gain(config):
    return config.gain

@dataclass
class RowScale(Variant):
    gain: float = 1.0
    layer = RowScaleLayer
"""


def test_command_checks_a_class_in_a_file_of_its_own(tmp_path) -> None:
    (tmp_path / "invention.py").write_text(INVENTION)
    script = (
        "import sys; from variants.check import main; code = main(sys.argv[1:]);"
        "assert not {'transformers', 'lightning'} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, f"{tmp_path}/invention.py:RowScale", "--gain", "2", "--target", "q,up"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[: len(properties())]] == properties()
    assert "target='q,up'" in done.stdout and "gain=2" in done.stdout
    assert f"{len(properties())} held, 0 failed" in lines[-1]


def test_command_reports_a_failure(monkeypatch, capsys) -> None:
    monkeypatch.setattr("variants.check.properties", lambda: ["identity at start", "merge", "slice"])
    assert main([f"{__file__}:NotLinear", "--r", "4"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["identity", "at", "start", HELD]
    assert FAILED in lines[1] and "off by" in lines[1]
    assert lines[-1] == "2 held, 1 failed, 0 not applicable"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: variant"),
        (["lroa"], "did you mean lora"),
        (["nowhere.at:All"], "No module named 'nowhere'"),
        (["lora", "--rank", "3"], "--rank"),
        (["lora", "--r", "0"], "r must be at least 1"),
        (["lora", "--r", "many"], "r"),
        (["{tmp}/broken.py:Any"], "SyntaxError"),
        (["{tmp}/nothing.py:Any"], "nothing.py"),
    ],
)
def test_bad_usage_is_one_line_and_2(arguments, says, tmp_path, capsys) -> None:
    (tmp_path / "broken.py").write_text("class :")
    assert main([a.format(tmp=tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1, error


class CrashesLayer(LoRALayer):
    def forward(self, x, y):
        return {}["nothing"]


@dataclass
class Crashes(LoRA):
    layer = CrashesLayer


def test_an_unexpected_error_is_a_failure_with_its_name() -> None:
    findings = check(Crashes, ["output moves", "merge"])
    assert [f.status for f in findings] == [FAILED, FAILED]
    assert "KeyError: 'nothing'" in table(findings)


def test_a_class_of_main_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(PiSSA, "__module__", "__main__")
    (finding,) = check(PiSSA, ["DDP"])
    assert finding.status == NOT_APPLICABLE and "file of its own" in finding.reason


def test_a_rank_above_the_width_widens_the_models() -> None:
    assert Subject.of(LoRA(r=8)).width == 16
    assert Subject.of(LoRA(r=40)).width == 64
    assert Subject.of(LoRA(target="no_such_map")).variant.target == "attn-qv"
