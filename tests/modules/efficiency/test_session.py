"""A session: large models are measured in a process for each implementation, and one that dies costs one row."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from modules.efficiency import report, session, thresholds
from modules.efficiency.result_file import FORMAT, read, save
from modules.efficiency.steps import peft_implementation
from modules.efficiency.steps.scenarios import SCENARIOS
from paper_repro.efficiency import parse

KEY = "llama-1b"
WAYS = ("limit eager", "ours lora eager", "ours dora eager", "peft-liger-bf16 lora eager")


def way(
    library: str, method: str, ms: float, mode: str = "eager", peak_mb: float = 1000.0, trained: int = 2**20
) -> dict:
    """An implementation's record."""
    figures = {"rounds_ms": [ms, ms, ms], "step_ms": ms, "step_ms_quartiles": [ms, ms], "tokens_per_s": 1}
    return {"library": library, "method": method, "mode": mode, "peak_mb": peak_mb, "trained": 2**20} | figures


def scenario(*ways: dict) -> dict:
    named = {" ".join(w for w in (one["library"], one["method"], one["mode"]) if w): one for one in ways}
    settings = {"in_turn": False, "rounds": 3, "passes": 1, "batches": 1, "precision": "bf16"}
    return {"title": SCENARIOS[KEY].title, "shape": KEY, "ways": named} | settings


@pytest.fixture
def started(monkeypatch) -> list:
    """The options of each process that is started; those of DoRA end without a file, as when memory is short."""
    found = []

    own = session.subprocess.run

    def run(command, **settings):
        if "paper_repro.efficiency" not in command:
            return own(command, **settings)
        options = parse(command[command.index("paper_repro.efficiency") + 1 :])
        found.append(options)
        library, *method = options.ways[0].removesuffix(" eager").split(" ")
        if "dora" in method:
            return types.SimpleNamespace(returncode=-9)
        record = scenario(way(library, *(method or [""]), 2.0), way("limit", "", 1.0))
        result = {"format": FORMAT, "environment": {}, "scenarios": {KEY: record}}
        save(options.out / "cpu.json", result)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(session.subprocess, "run", run)
    monkeypatch.setattr(peft_implementation, "available", lambda: True)
    return found


def test_each_in_a_process_of_its_own(started, tmp_path, capsys):
    """With the settings of the whole session; a scenario that is measured again replaces its entry."""
    words = [
        "--scenarios",
        KEY,
        "--ways",
        ",".join(WAYS),
        "--modes",
        "eager",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    words += ["--precision", "bf16", "--curves", "off", "--rounds", "3", "--reference"]
    for repeat in (1, 2):
        assert session.run(parse(words)) == 0
        (file,) = tmp_path.glob("*.json")
        found = read(file)["scenarios"][KEY]["ways"]
        assert tuple(found) == WAYS
        assert {name: found[name].get("failed") for name in WAYS if "failed" in found[name]} == {
            "ours dora eager": "its process ended with code -9"
        }
        assert len(started) == repeat * len(WAYS)
        result = json.loads(file.read_text())
        result["scenarios"][KEY]["ways"]["full eager"] = way("full", "", 5.0)  # of another session
        save(file, result)
    for options, name in zip(started, WAYS * 2, strict=True):
        assert options.ways == (name,) and options.modes == ("eager",) and options.scenarios == (KEY,)
        assert (options.rounds, options.passes, options.precision, options.device) == (3, 1, "bf16", "cpu")
        assert options.reference and options.curves == "off" and options.out not in (tmp_path, Path("results"))
    assert "ours dora eager              failed: its process ended with code -9" in capsys.readouterr().out


def test_a_process_measures_what_it_is_named_alone():
    """So that it starts no further ones."""
    for name in WAYS:
        options = parse(["--scenarios", KEY, "--ways", name, "--modes", "eager"])
        ways = session._implementations(options, SCENARIOS[KEY], bf16=True, has_peft=True)
        assert [way.name for way in ways] == [name]


def test_no_graphs_of_what_looks_at_the_gpus_values():
    """PEFT and full fine-tuning of a decoder are eager; ours, and the limit, are not."""
    ways = session._implementations(parse([]), SCENARIOS[KEY], bf16=True, has_peft=True)
    modes = {library: {w.mode for w in ways if w.library == library} for library in {w.library for w in ways}}
    assert {"peft", "peft-bf16", "peft-liger", "peft-liger-bf16", "full"} <= modes.keys()
    assert all(found == {"eager"} for library, found in modes.items() if library.startswith(("peft", "full")))
    assert modes["ours"] == {"eager", "graphs", "trained"} and modes["limit"] == {"eager", "graphs"}


def bars(*ways: dict) -> dict[tuple[str, str], thresholds.Row]:
    rows = thresholds.rows({"scenarios": {KEY: scenario(*ways)}})
    return {(row["bar"].partition(",")[0], row["what"]): row for row in rows}


def test_decoders_are_compared_with_the_faster_of_pefts_with_liger():
    found = bars(
        way("limit", "", 10.0, "graphs", 1000.0),
        way("limit", "", 9.0),
        way("ours", "lora", 11.0, "trained", 1065.0),
        way("ours", "dora", 16.5, "trained", 1067.0),
        way("peft-liger", "lora", 18.0, peak_mb=1100.0),
        way("peft-liger-bf16", "lora", 16.0, peak_mb=1200.0),
        way("peft-liger-bf16", "dora", 40.0, peak_mb=1066.0),
        way("peft", "lora", 1.0),
    )
    steps = {
        ("LoRA step", "ours lora trained / limit eager"): (11 / 9, 1.25, True),
        ("LoRA step", "ours lora trained / peft-liger-bf16 lora eager"): (11 / 16, 0.75, True),
        ("DoRA step", "ours dora trained / ours lora trained"): (1.5, 1.3, False),
        ("DoRA step", "ours dora trained / peft-liger-bf16 dora eager"): (16.5 / 40, 0.6, True),
    }
    allowed = 1.05 * 1000 + 16  # a million trained numbers of 16 bytes
    memory = {
        ("LoRA peak memory", "ours lora trained / peft-liger lora eager"): (1065 / 1100, 1.0, True),
        ("LoRA peak memory", "ours lora trained / (1.05 x limit eager + adapter state)"): (1065 / allowed, 1.0, True),
        ("DoRA peak memory", "ours dora trained / peft-liger-bf16 dora eager"): (1067 / 1066, 1.0, False),
        ("DoRA peak memory", "ours dora trained / (1.05 x limit eager + adapter state)"): (1067 / allowed, 1.0, False),
    }
    assert found.keys() == (steps | memory).keys()
    for name, (ratio, limit, met) in (steps | memory).items():
        row = found[name]
        assert row["measured"][1] == pytest.approx(ratio) and (row["limit"], row["met"]) == (limit, met), name


def test_where_little_was_measured_little_is_said():
    assert not bars(way("ours", "lora", 1.0, "trained"))
    failed = {"library": "ours", "method": "lora", "mode": "eager", "failed": "out of memory"}
    assert not bars(failed, way("limit", "", 1.0))


def test_report_and_plot_know_every_library(tmp_path):
    pytest.importorskip("matplotlib")
    ways = [way(library, "lora", 2.0) for library in ("limit", "full", "ours", "peft", "peft-bf16")]
    ways += [way("peft-liger", "lora", 3.0), way("peft-liger-bf16", "lora", 4.0)]
    environment = {"device": "a GPU", "torch": "2", "transformers": "5"}
    result = {"scenarios": {KEY: scenario(*ways)}, "environment": environment, "peft": "0.17"}
    assert "| peft-liger-bf16 lora eager | 4.00" in report.markdown(result)
    report.plot(result, tmp_path / "plot")
    assert "with Liger" in (tmp_path / "plot.svg").read_text()
