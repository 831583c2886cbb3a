"""The command that checks a variant of an inventor: what it prints, and mistakes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import broken_variants
from tests.support.outside_variants import PiSSA
from variants import LoRA
from variants.check import FAILED, HELD, NOT_APPLICABLE, check, main, properties, table
from variants.contract.models import one_thread
from variants.methods.lora import LoRALayer

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
    assert main([f"{broken_variants.__file__}:NotLinear", "--r", "4"]) == 1
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
