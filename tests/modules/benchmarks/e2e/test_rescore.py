"""e2e_score.py --runs: outputs of finished runs scored anew, and nothing lost where that cannot be."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modules.benchmarks.e2e import E2E, TASK
from modules.benchmarks.e2e.rescore import rescore
from modules.command_line import guarded
from modules.runs.results import ResultStore, RunResult
from modules.scores import FORMULAS, score
from paper_repro import e2e_score
from tests.support.e2e_tiny import csv_folder, pairs
from tests.support.results import run as result_of

ROUGE, METEOR = 0.125, 0.25


@pytest.fixture
def references() -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for slots, text in pairs()["test"]:
        groups.setdefault(str(slots), []).append(text)
    return list(groups.values())


@pytest.fixture
def without_java(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))


@pytest.fixture
def with_meteor(without_java, monkeypatch):
    """A METEOR that needs no Java."""
    monkeypatch.setitem(FORMULAS, "METEOR", lambda outputs, references: METEOR)


@pytest.fixture
def left(tmp_path, references, without_java):
    """Leaves a run as training leaves it on a machine without Java; its outputs are first references."""
    store = ResultStore(tmp_path)
    source = E2E.open_source("folder", str(csv_folder(tmp_path / "data")))

    def make(beside: bool = True, **test) -> RunResult:
        outputs = [group[0] for group in references]
        outputs[1] = ""  # a system may say nothing
        values = score(outputs, references)[0] | {"METEOR": None}
        missing = {"METEOR": "METEOR needs a Java runtime"}
        sizes = {"train": 45, "test_inputs": 4}
        data = {"source": "folder", "name": "data", "hash": source.hash(TASK), "sizes": sizes}
        epoch = {"epoch": 1, "BLEU": 0.5}
        result = replace(
            result_of(data=data), benchmark="e2e", task="e2e", metric="BLEU", best=epoch, last=epoch,
            test={"epoch": 1, **values, "decode_s": 3.5, "missing": missing} | test,
        )  # fmt: skip
        store.write(result)
        folder = store.runs / result.id
        folder.mkdir(exist_ok=True)
        (folder / "test.txt").write_text("\n".join(outputs) + "\n")
        if beside:
            (folder / "test_references.txt").write_text("\n\n".join("\n".join(group) for group in references) + "\n")
        return result

    return make


@pytest.mark.parametrize("beside", [True, False])
def test_a_missing_score_comes_in_and_the_rest_stays(left, with_meteor, tmp_path, beside):
    before = left(beside)
    assert before.test["METEOR"] is None and before.test["missing"]
    ((line, scored),) = rescore(tmp_path, None if beside else str(tmp_path / "data"))
    after = ResultStore(tmp_path).read(before.id)
    assert scored and "METEOR 0.2500" in line and before.id in line
    scorers = {"tokenizer": "own", "java": None}
    assert scorers.items() <= after.test["scorers"].items()
    assert after.test == before.test | {"METEOR": METEOR, "missing": {}, "scorers": after.test["scorers"]}
    assert replace(after, test=None) == replace(before, test=None)
    assert list(rescore(tmp_path)) == [], "a run that lacks nothing is passed over"
    assert len(list(rescore(tmp_path, str(tmp_path / "data"), force=True))) == 1


def test_a_score_that_cannot_be_had_here_stays(left, tmp_path):
    before = left(METEOR=0.4, ROUGE_L=ROUGE, missing={})
    ((_, scored),) = rescore(tmp_path, force=True)
    after = ResultStore(tmp_path).read(before.id)
    assert scored and after.test["METEOR"] == 0.4 and after.test["missing"] == {}
    assert after.test["ROUGE_L"] > 2 * ROUGE, "what can be had is scored anew"


def test_outputs_that_are_not_the_results_own_are_refused(left, with_meteor, tmp_path):
    before = left()
    outputs = tmp_path / "runs" / before.id / "test.txt"
    outputs.write_text(outputs.read_text().replace("The", "A").replace("the", "a"))
    ((line, scored),) = rescore(tmp_path)
    assert not scored and "not the same run" in line
    assert ResultStore(tmp_path).read(before.id) == before


@pytest.mark.parametrize("lost", ["test.txt", "test_references.txt", "data"])
def test_what_is_not_there_is_named_and_the_others_go_on(left, with_meteor, tmp_path, lost, monkeypatch, capsys):
    broken, whole = left(), left()
    folder, data = tmp_path / "runs" / broken.id, []
    if lost == "data":
        (folder / "test_references.txt").unlink()
        other = csv_folder(tmp_path / "other")
        (other / "devset.csv").write_text((other / "trainset.csv").read_text())
        data = ["--data_dir", str(other)]
    else:
        (folder / lost).unlink()
    monkeypatch.setattr(sys, "argv", ["e2e_score.py", "--runs", str(tmp_path), *data])
    assert guarded(e2e_score.main) == 1
    said = capsys.readouterr()
    assert f"{broken.id} lora seed 0 is left as it is" in said.err and said.err.count("\n") == 1
    assert ("scored on other data" if lost == "data" else lost) in said.err
    assert ResultStore(tmp_path).read(whole.id).test["METEOR"] == METEOR and whole.id in said.out
    assert (tmp_path / "tables" / "e2e.md").is_file()


@pytest.mark.parametrize("flags", [[], ["refs.txt"], ["refs.txt", "out.txt", "--runs", "results"]])
def test_files_or_runs(flags, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["e2e_score.py", *flags])
    assert guarded(e2e_score.main) == 2
    assert "either REFS and OUTPUTS, or --runs" in capsys.readouterr().err


def test_a_folder_without_runs_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["e2e_score.py", "--runs", str(tmp_path)])
    assert guarded(e2e_score.main) == 2 and "no finished E2E runs" in capsys.readouterr().err
