"""The efficiency command: result, table and plot, and mistakes."""

import json
import subprocess
import sys

import pytest

from modules.command_line import guarded
from modules.efficiency.result_file import slug
from modules.efficiency.steps import backbones, loss_curves, peft_implementation
from modules.efficiency.steps.scenarios import SCENARIOS, Scenario
from modules.paths import PROJECT
from modules.runs.environment import device_name
from paper_repro import efficiency
from tests.support.efficiency import GPT2, ROBERTA


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(backbones.SHAPES, "tiny", ROBERTA)
    monkeypatch.setitem(backbones.SHAPES, "tiny-gpt2", GPT2)


def command(*words, out):
    return guarded(lambda: efficiency.main([*words, "--device", "cpu", "--curves", "off", "--out", str(out)]))


@pytest.mark.slow
def test_command_writes_result_table_and_plot(tmp_path, monkeypatch):
    monkeypatch.setitem(SCENARIOS, "tiny", Scenario("tiny", "tiny", 4, 16, methods=("lora",), modes=("eager",)))
    words = ["--scenarios", "tiny", "--ways", "limit eager,ours lora", "--rounds", "2"]
    assert command(*words, out=tmp_path) == 0
    (file,) = tmp_path.glob("cpu-*.json")
    result = json.loads(file.read_text())
    assert set(result["scenarios"]["tiny"]["ways"]) == {"limit eager", "ours lora eager"}
    table = file.with_suffix(".md").read_text()
    assert "## tiny, 4 x 16 tokens" in table and "| ours lora eager |" in table
    pytest.importorskip("matplotlib")
    assert file.with_suffix(".svg").stat().st_size > 1000
    file.with_suffix(".md").unlink()
    assert command("--report_only", out=tmp_path) == 0
    assert file.with_suffix(".md").read_text() == table


def test_curves_of_other_methods_stay(tmp_path, monkeypatch):
    """A scenario of the same backbone that compares fewer methods replaces theirs alone; of several, the one with the
    most methods is compared."""
    found = iter((1.0, 2.0, 3.0))

    def compared(scenario, *args, **kwargs):
        value = next(found)
        common = {"shape": "tiny", "precision": "fp32", "library": "ours", "mode": "eager", "steps": 30, "effect": 9.0}
        return [common | {"method": method, "difference": value} for method in scenario.methods]

    monkeypatch.setattr(loss_curves, "compare", compared)
    monkeypatch.setattr(peft_implementation, "available", lambda: True)
    for key, methods in (("all", ("lora", "dora")), ("one", ("lora",))):
        monkeypatch.setitem(SCENARIOS, key, Scenario(key, "tiny", 4, 16, methods=methods))
    for keys, kept in ("all", (1.0, 1.0)), ("one", (2.0, 1.0)), ("all,one", (3.0, 3.0)):
        words = ["--scenarios", keys, "--device", "cpu", "--curves", "only", "--out", str(tmp_path)]
        assert guarded(lambda words=words: efficiency.main(words)) == 0
        (file,) = tmp_path.glob("cpu-*.json")
        records = {record["method"]: record["difference"] for record in json.loads(file.read_text())["curves"]}
        assert (records["lora"], records["dora"]) == kept


@pytest.mark.parametrize(
    "words, said",
    [
        (["--scenarios", "big"], "unknown 'big'; there are base"),
        (["--modes", "fast"], "unknown 'fast'"),
        (["--ways", "theirs"], "leave nothing of small"),
        (["--shape", "bert"], "the backbones are"),
        (["--report_only"], "does not exist"),
        (["--job", "--data_dir", "nowhere"], "--data_dir"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, said):
    assert command(*words, out=tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_a_foreign_file_is_not_overwritten(tmp_path):
    file = tmp_path / f"{slug(device_name('cpu'), 'cpu')}.json"
    file.write_text("{}")
    assert command(out=tmp_path) == 2
    assert file.read_text() == "{}"


def test_help_is_quick():
    line = [sys.executable, "-X", "importtime", str(PROJECT / "paper_repro" / "efficiency.py"), "--help"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=PROJECT, check=True)
    assert "--scenarios" in done.stdout
    assert not [name for name in ("torch", "transformers", "lightning", "matplotlib") if f"| {name}\n" in done.stderr]
