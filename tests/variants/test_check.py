"""The command that checks a variant of an inventor: what it prints, and mistakes."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support import broken_variants
from tests.support.outside_variants import PiSSA
from variants import AdapterLayer, LoRA, Variant
from variants.check import FAILED, HELD, NOT_APPLICABLE, check, main, properties, slower, table
from variants.contract.models import one_thread
from variants.layer import LowRank, seeded
from variants.methods.lora import LoRALayer
from variants.registry import resolve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    with one_thread():
        yield


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


@pytest.mark.slow
def test_command_checks_a_class_in_a_file_of_its_own(tmp_path, capsys) -> None:
    (tmp_path / "invention.py").write_text(INVENTION)
    assert main([f"{tmp_path}/invention.py:RowScale", "--gain", "2", "--target", "q,up"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[: len(properties())]] == properties()
    assert "target='q,up'" in out and "gain=2" in out
    others = 6  # it has neither metrics, groups, an optimizer, size, low rank nor values from data
    assert f"{len(properties()) - others} held, 0 failed, {others} not applicable" in lines[-3]
    assert lines[-2] == "fast paths that are missing, each with its reason:" and "delta_weight" in lines[-1]


def test_command_reports_a_failure(monkeypatch, capsys) -> None:
    monkeypatch.setattr("variants.check.properties", lambda: ["identity at start", "merge", "slice"])
    assert main([f"{broken_variants.__file__}:NotLinear", "--r", "4"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["identity", "at", "start", HELD]
    assert FAILED in lines[1] and "off by" in lines[1]
    assert lines[-1] == "2 held, 1 failed, 0 not applicable"


def test_one_slip_is_told_once_with_its_place_and_remedy(capsys) -> None:
    """Fourteen to sixteen lines said the same, and none named the inventor's file."""
    names = ["output moves", "gradients", "parameter count", "merge"]
    assert main([f"{broken_variants.__file__}:Unused", *(w for name in names for w in ("--only", name))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.search(
        r"FAILED +broken_variants\.py:\d+: the output does not depend on .*: use it, leave it out", lines[0]
    )
    assert [line.split("FAILED")[1].strip() for line in lines[1:3]] == ["as 'output moves'"] * 2
    assert lines[3].split() == ["merge", HELD] and lines[-1] == "1 held, 3 failed for 1 reason, 0 not applicable"


def test_an_error_has_the_line_that_raised_it(capsys, tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        "from variants import LoRA\nfrom variants.methods.lora import LoRALayer\nclass L(LoRALayer):\n"
        "  def forward(self, x, y):\n    if self.lora_B.sum() > 9: return y\n    return super().forward(x, y)\n"
        "class V(LoRA):\n  layer = L\nclass Unbuilt(LoRA):\n  layer = lambda self, *_, **__: 1 / 0\n"
    )
    only = ["--only", "no host sync,compile"]
    assert main([f"{tmp_path}/own.py:V", *only]) == 1
    out = capsys.readouterr().out
    assert (
        "own.py:5: a step needs values on the host" in out and "as 'no host sync'" in out and "leave out .item()" in out
    )
    assert main([f"{tmp_path}/own.py:Unbuilt", *only]) == 1
    out = capsys.readouterr().out
    assert out.count("ZeroDivisionError") == 1 and "own.py:10: no layer for" in out


FAULTS = """
from dataclasses import dataclass
import torch
from variants import LoRA
from variants.methods.lora import LoRALayer

class L(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.t, self.mask = 0, torch.ones(3)
        self.lora_A.data.normal_(generator=torch.Generator().manual_seed(0))

class Turned(LoRALayer):
    def low_rank(self):
        return super().low_rank()._replace(B=self.lora_B.mT)

class Constant(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        [p.sub_(0.1 * p.grad) for group in self.param_groups for p in group["params"]]

@dataclass
class Faults(LoRA):
    layer = L

    def optimizer(self, groups):
        return Constant(groups)

    @torch.no_grad()
    def after_step(self, layers, step, total_steps):
        for layer in layers:
            layer.t += 1
            layer.site.parameter.add_(layer.delta_weight())

@dataclass
class TurnedFactor(LoRA):
    layer = Turned
"""


def test_faults_have_their_line_and_their_remedy(tmp_path, capsys) -> None:
    """None of them was told; the tensor in a plain attribute was said to be a wait for the GPU."""
    (tmp_path / "faults.py").write_text(FAULTS)
    main([f"{tmp_path}/faults.py:Faults", "--only", "optimizer,base,buffers,resume,determinism"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line, expected in zip(
        lines[:5],
        [
            r"optimizer FAILED faults.py:18: the optimizer steps \S+ alike when a schedule .*: read group\[.lr.\]",
            r"base FAILED faults.py:30: after_step changes \S+q_proj.weight in place, .*: leave W as it is",
            r"buffers FAILED faults.py:10: L.mask is a tensor in a plain attribute, .*: self.register_buffer\(.mask.",
            r"resume FAILED faults.py:33: .*: L.t is then 7 in place of 12; keep it in a persistent buffer",
            r"determinism FAILED faults.py:11: it draws from a generator with the seed 0 whatever .*: draw from rng",
        ],
        strict=True,
    ):
        assert re.match(expected, line), line
    assert main([f"{tmp_path}/faults.py:TurnedFactor"]) == 1
    out = capsys.readouterr().out
    assert re.match(r"low rank +FAILED +faults.py:14: at a map .* low_rank\(\) gives B of shape \(8, 16\), which", out)
    assert "must be (out, r) = (16, 8): hand it over transposed\n" in out and out.count("FAILED") == 1


@pytest.mark.parametrize(
    "seeded", ["numpy.random.default_rng(SEED)", "random.seed(SEED)", "numpy.random.seed(seed=SEED)"]
)
def test_a_fixed_seed_of_other_numbers_is_told(tmp_path, capsys, seeded) -> None:
    """Both layers start from the same numbers, as from a constant: it is seen where they are seeded."""
    source = (
        "import random, numpy, torch\nfrom variants import LoRA\nfrom variants.methods.lora import LoRALayer\n"
        "class L(LoRALayer):\n  def __init__(self, site, config, rng):\n    super().__init__(site, config, rng)\n"
        f"    {seeded}\nclass V(LoRA):\n  layer = L\n"
    )
    (tmp_path / "fixed.py").write_text(source.replace("SEED", "0"))
    assert main([f"{tmp_path}/fixed.py:V", "--only", "determinism"]) == 1
    assert "fixed.py:7: it draws from a generator with the seed 0 whatever the run's seed is" in capsys.readouterr().out
    assert not hasattr(random.seed, "__wrapped__")
    (tmp_path / "of_rng.py").write_text(source.replace("SEED", "int(torch.randint(2**31, (), generator=rng))"))
    assert main([f"{tmp_path}/of_rng.py:V", "--only", "determinism"]) == 0


def test_a_tensor_in_a_plain_attribute_is_no_wait_for_the_gpu() -> None:
    for only in (["no host sync"], ["buffers", "no host sync"]):
        *told, last = check(broken_variants.PlainMask, only)
        first = (told or [last])[0]
        assert re.match(r"broken_variants.py:\d+: PlainMaskLayer.masks\[0\] is a tensor in a plain attr", first.reason)
        assert not told or last.reason == "as 'buffers'"


def test_an_update_must_fit_maps_that_are_not_square() -> None:
    """On square maps alone the factor of inputs computes; elsewhere one read of sizes of tensors a and b."""
    (finding,) = check(FactorOfInputs, ["low rank"])
    assert "low_rank() gives outer of shape (16,), which must be (out) = (24,)" in finding.reason


def test_what_is_allowed_is_told_nothing() -> None:
    """Ranks by role, AdamW after all, a number that follows from the step, a frozen part's seed that is an option, a
    hook that waits for a value."""
    tried = ["base", "buffers", "no host sync", "resume", "determinism", "slice"]
    assert [f.reason for f in check(Allowed(), [*tried, "low rank"]) if f.status != HELD] == []
    assert [f.status for f in check(Allowed(), ["optimizer"])] == [NOT_APPLICABLE]
    assert [f.status for f in check(Allowed(own=True), ["optimizer"])] == [HELD]


def test_suggestions_come_with_what_holds() -> None:
    (finding,) = check(Plain, ["per token"])
    assert finding.status == HELD and finding.reason.startswith("declare per_token = True")
    (finding,) = check(LoRA, ["per token"])
    assert finding.status == HELD and not finding.reason


def test_a_methods_own_refusal_is_no_failure() -> None:
    """Other sizes of maps, ranks by place, tensors that layers share: none of them is a fault of the method."""
    assert [f.status for f in check(Divides, ["Conv1D", "size", "slice"])] == [NOT_APPLICABLE, HELD, HELD]
    assert [f.status for f in check(LoRA(per_layer={"*.0.*": {"r": 4}}), ["determinism", "round trip"])] == [HELD] * 2
    assert [f.status for f in check(Shared, ["determinism", "meta device", "stacking"])] == [HELD] * 3


def test_what_data_gives_is_tried(monkeypatch) -> None:
    monkeypatch.setattr(Divides, "init_from_data", lambda self, model, batches: [model(**b).loss for b in batches])
    assert check(Divides, ["data start"])[0].status == HELD
    (finding,) = check(type("Own", (LoRA,), {"__module__": __name__, "init_from_data": _noisy}), ["data start"])
    assert finding.status == FAILED and "changes the output" in finding.reason


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "variant is missing"),
        (["lora", "--only", "nothing"], "there is no property 'nothing'; they are something trains, identity"),
        (["my_file.py"], "my_file.py is a file: name its class too"),
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


@torch.no_grad()
def _noisy(self, model, batches):
    for layer in (m for m in model.modules() if isinstance(m, LoRALayer)):
        layer.lora_B.fill_(sum(batch["labels"].sum() for batch in batches))
        batches = [{"labels": torch.ones(1)}]


class PlainLayer(LoRALayer):
    def forward(self, x, y):
        return y + self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)


@dataclass
class Plain(LoRA):
    layer = PlainLayer


class DividesLayer(LoRALayer):
    def __init__(self, site, config, rng):
        if site.out_features % 16 or config.r % 8:
            raise ValueError("16 does not divide it")
        super().__init__(site, config, rng)


@dataclass
class Divides(LoRA):
    layer = DividesLayer


class FactorOfInputsLayer(AdapterLayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.A = nn.Parameter(torch.randn(2, site.in_features, generator=rng))
        self.B = nn.Parameter(torch.zeros(site.out_features, 2))
        self.d = nn.Parameter(torch.ones(site.in_features))

    def low_rank(self):
        return LowRank(self.A, self.B, outer=self.d)


@dataclass
class FactorOfInputs(Variant):
    layer = FactorOfInputsLayer


class AllowedLayer(LoRALayer):
    def __init__(self, site, config, rng):
        ranks = {"q": 8, "v": 4}
        super().__init__(site, replace(config, r=ranks.get(site.role, 2)), rng)
        frozen = torch.randn(site.in_features, generator=torch.Generator().manual_seed(config.frozen_seed))
        self.register_buffer("frozen", frozen, persistent=False)
        self.share = 0.0


@dataclass
class Allowed(LoRA):
    frozen_seed: int = 5
    own: bool = False
    layer = AllowedLayer

    def optimizer(self, groups):
        if self.own:
            return torch.optim.Adam(groups)
        return None

    def before_step(self, layers, step, total_steps):
        if layers[0].lora_B.grad.norm().item() > 1e9:
            layers[0].lora_B.grad.zero_()

    def after_step(self, layers, step, total_steps):
        for layer in layers:
            layer.share = step / total_steps


class SharedLayer(AdapterLayer):
    def __init__(self, site, config, rng, A):
        super().__init__(site, config)
        self.A, self.v = A, nn.Parameter(torch.zeros(site.out_features))

    def low_rank(self):
        return LowRank(self.A, self.A.T, outer=self.v)


@dataclass
class Shared(Variant):
    """Tied-LoRA: the layers train one matrix."""

    layer = SharedLayer

    def shared(self, sites, seed):
        return {"A": nn.Parameter(torch.randn(4, sites[0].in_features, generator=seeded(seed, "A")))}


class CrashesLayer(LoRALayer):
    def forward(self, x, y):
        return {}["nothing"]


@dataclass
class Crashes(LoRA):
    layer = CrashesLayer


def test_an_unexpected_error_is_a_failure_with_its_name() -> None:
    findings = check(Crashes, ["output moves", "merge"])
    assert [f.status for f in findings] == [FAILED, FAILED]
    assert re.search(r"test_check\.py:\d+: KeyError: 'nothing'", table(findings))


def test_a_class_of_main_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(PiSSA, "__module__", "__main__")
    (finding,) = check(PiSSA, ["DDP"])
    assert finding.status == NOT_APPLICABLE and "file of its own" in finding.reason


def test_output_that_nobody_reads_is_no_error() -> None:
    """A reader that is content early (`| head -1`) ended the command in a traceback."""
    line = f"set -o pipefail; {sys.executable} -m variants.check lora --only merge | true"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- fast paths ---------------------------------------------------------------------------------------------------


class _PlainLayer(AdapterLayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.scale = nn.Parameter(torch.ones(site.out_features))

    def forward(self, x, y):
        return y * self.scale


@dataclass
class _Plain(Variant):
    stackable = False
    layer = _PlainLayer


def test_what_a_variant_leaves_of_the_fast_paths_is_said(capsys):
    assert slower(LoRA()) == []
    stacked, passes, packing = slower(_Plain())
    assert stacked.startswith("stacked seeds") and "stackable = False" in stacked
    assert passes.startswith("passes of _PlainLayer: its forward is computed as it is written")
    assert packing.startswith("sequence packing: _PlainLayer does not say per_token = True")
    (deltas,) = slower(resolve("fourierft"))
    assert "delta_weight is computed in plain PyTorch" in deltas
    assert not [line for line in slower(resolve("prefix_tuning")) if "RoomLayer: its" in line], "it lengthens rows"
