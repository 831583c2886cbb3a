"""The command: labels for a text or a table, and mistakes in one line."""

import io
import sys

import pandas as pd
import pytest

from modules import predict
from modules.command_line import guarded
from paper_repro import predict as command

ROWS = {"sentence1": ["1 2", "RTE", "NA", ""], "sentence2": ["3", "number 4", 'a "b", c', "5"], "label": list("wxyz")}


@pytest.fixture
def call(capsys):
    """Run the command; its exit code, output and errors."""

    def run(*words) -> tuple[int, str, str]:
        code = guarded(lambda: command.main([str(word) for word in words]))
        return code, *capsys.readouterr()

    return run


def test_a_text_or_a_pair_of_them(call, runs):
    code, out, _ = call(runs["rte"].folder, "--text", "1 2", "--text-pair", "3")
    label, probability = out.split()
    wanted = predict(runs["rte"], [("1 2", "3")]).iloc[0]
    assert (
        code == 0 and label == wanted["label"] and float(probability) == pytest.approx(wanted["probability"], abs=1e-4)
    )
    code, out, _ = call(
        runs["stsb"].id, "--results_dir", runs["stsb"].folder.parents[1], "--text", "1", "--text_pair", "2"
    )
    assert code == 0 and float(out) == pytest.approx(predict(runs["stsb"], [("1", "2")])["score"][0], abs=1e-4)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_of_any_kind_keeps_its_columns(kind, call, runs, tmp_path):
    table, file = pd.DataFrame(ROWS), tmp_path / f"rows.{kind}"
    if kind == "tsv":
        table["sentence2"] = table["sentence2"].str.replace('"', "")
    wanted = predict(runs["rte"], table)
    writers = {
        "csv": lambda: table.to_csv(file, index=False),
        "tsv": lambda: table.to_csv(file, index=False, sep="\t"),
        "jsonl": lambda: table.to_json(file, orient="records", lines=True),
        "parquet": lambda: table.to_parquet(file),
    }
    writers[kind]()
    assert call(runs["rte"].folder, "--file", file, "--out", tmp_path / "out.csv") == (
        0,
        f"{tmp_path / 'out.csv'}: 4 rows\n",
        "",
    )
    said = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert said.columns.tolist() == [*ROWS, "predicted_label", "probability"]
    assert said["predicted_label"].tolist() == wanted["label"].tolist()
    assert said["probability"].tolist() == pytest.approx(wanted["probability"].tolist(), abs=1e-5)
    assert said[list(ROWS)].to_dict("list") == table.to_dict("list")


def test_without_out_the_table_is_printed_and_columns_may_have_other_names(call, runs, tmp_path):
    table = pd.DataFrame({"a": ["1", "2"], "b": ["3", "4"]})
    table.to_csv(tmp_path / "rows.csv", index=False)
    code, out, err = call(runs["rte"].folder, "--file", tmp_path / "rows.csv", "--columns", "b,a", "--which", "last")
    said = pd.read_csv(io.StringIO(out))
    wanted = predict(runs["rte"], [("3", "1"), ("4", "2")], "last")
    assert code == 0 and err == "" and said.columns.tolist() == ["a", "b", "label", "probability"]
    assert said["label"].tolist() == wanted["label"].tolist()


def test_mistakes_are_one_line(call, runs, tmp_path):
    run, file = runs["rte"].folder, tmp_path / "rows.csv"
    file.write_text("sentence1,other\na,b\n")
    (tmp_path / "latin.csv").write_bytes(b"sentence1,sentence2\n\xe9,b\n")
    (tmp_path / "empty.csv").write_text("sentence1,sentence2\n")
    (tmp_path / "rows.xlsx").write_text("x")
    (tmp_path / "rows.jsonl").write_text('{"sentence1": "a", "sentence2": 3}\n')
    cases = {
        ("--text", "a"): "rte takes 2 texts (sentence1, sentence2), not 1",
        (): "give either --text or --file",
        ("--text", "a", "--file", file): "give either --text or --file",
        ("--file", file, "--text_pair", "b"): "--text_pair goes with --text",
        ("--file", file): "there is no column 'sentence2'; it has sentence1, other",
        ("--file", file, "--columns", "sentence1"): "rte has 2 texts (sentence1, sentence2), --columns names 1",
        ("--file", tmp_path / "none.csv"): "cannot be read (No such file or directory)",
        ("--file", tmp_path / "latin.csv"): "not UTF-8",
        ("--file", tmp_path / "empty.csv"): "has no rows",
        ("--file", tmp_path / "rows.xlsx"): "a table's name ends in .csv, .tsv, .jsonl, .parquet",
        ("--file", tmp_path / "rows.jsonl"): "row 1: sentence2 is no text",
        ("--text", "a", "--text_pair", "b", "--model", tmp_path / "gone"): "is neither a folder nor a Hub id",
        ("--texts", "a"): "did you mean --text",
    }
    for words, line in cases.items():
        code, out, err = call(run, *words)
        assert code == 2 and out == "" and line in err and err.count("\n") == 1, (words, err)
    code, _, err = call(tmp_path / "nothing", "--text", "a")
    assert code == 2 and "there is no run" in err


def test_help_needs_no_torch():
    import subprocess

    words = [sys.executable, "-X", "importtime", command.__file__, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "--columns" in done.stdout and not imported & {"torch", "pandas", "transformers"}
