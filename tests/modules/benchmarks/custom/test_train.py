"""Own data from the command to the table, and the benchmark of docs/data.md as it is printed there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from modules.benchmarks.base import benchmark
from modules.reports.rebuild import rebuild
from modules.runs.results import ResultStore
from paper_repro import train
from tests.support.runs import forked_workers
from tests.support.source_tree import ROOT

SHORT = ["--epochs", "1", "--model", "embedded", "--wandb", "off", "--jobs", "1", "--batch_size", "16"]


def command(folder: Path, *words: str) -> int:
    return train.main([*words, "--results_dir", str(folder / "results"), *SHORT])


def results(folder: Path) -> list:
    return ResultStore(folder / "results").all()


def data(folder: Path, name: str, labels, rows: int = 48) -> Path:
    """Rows whose text says the label."""
    path = folder / name
    lines = [
        json.dumps({"say": f"row {i} is {labels[i % len(labels)]}", "y": labels[i % len(labels)]}) for i in range(rows)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True, scope="module")
def workers():
    """A process that knows of the data what the run's files say, and that need not import torch again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modules.launch.jobs.launch.run_workers", forked_workers)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two seeds at once on three classes with a test set, and a run on several labels."""
    folder = tmp_path_factory.mktemp("own")
    classes, test = data(folder, "moods.jsonl", ["glad", "sad", "calm"]), data(folder, "t.jsonl", ["glad", "sad"], 10)
    several = data(folder, "tags.jsonl", [["a"], ["a", "b"], []])
    of = ["--text", "say", "--label", "y"]
    first = ["--data", str(classes), *of, "--test", str(test), "--metric", "f1,accuracy"]
    assert command(folder, *first, "--seeds", "0,1", "--stack_seeds") == 0
    assert command(folder, "--data", str(several), *of) == 0
    return folder


def test_own_data_give_results_like_any_other(trained):
    one, two, tags = sorted(results(trained), key=lambda run: (run.task, run.seed))
    assert (one.benchmark, one.task, one.metric) == ("custom", "moods", "f1_macro") and two.seed == 1
    assert one.data["sizes"] == {"train": 42, "validation": 6, "test": 10} and one.data["name"] == "moods.jsonl"
    assert set(one.best) == {"epoch", "train_loss", "loss", "f1_macro", "accuracy"}
    for run in (one, two):
        assert set(run.test) == {"epoch", "loss", "f1_macro", "accuracy"} and run.test["epoch"] == run.best["epoch"]
        assert 0 <= run.test["accuracy"] <= 1 and round(run.test["accuracy"] * 10, 6) % 1 == 0  # of ten rows
    assert (tags.task, tags.metric) == ("tags", "f1_macro") and 0 < tags.best["loss"] < 1


def test_the_test_set_is_scored_with_the_best_weights(trained):
    """By hand, from the adapter's file: the seeds were trained as a stack, and this is one by itself."""
    import torch

    from modules.runs.config import RunConfig
    from modules.training.setup import attach_adapters
    from variants.formats.native import restore

    for result in (run for run in results(trained) if run.task == "moods"):
        config = RunConfig.read(str(trained / "results"), result.id)
        prepared, adapted, _, _ = attach_adapters([config])
        restore(adapted, config.folder / "best")
        prepared.model.eval()
        right = 0
        for batch in prepared.data.test_dataloader():
            labels, weight = batch.pop("labels"), batch.pop("weight")
            with torch.no_grad():
                right += int(((prepared.model(**batch).logits.argmax(-1) == labels) * weight).sum())
        assert right / 10 == pytest.approx(result.test["accuracy"])


def test_each_data_set_has_a_table_without_published_rows(trained, capsys):
    assert train.main(["--table_only", "--results_dir", str(trained / "results")]) == 0
    text = (trained / "results" / "tables" / "custom.md").read_text()
    moods, tags = text.split("## ")[1:]
    assert moods.startswith("embedded-roberta") and "on moods.jsonl" in moods.partition("\n")[0]
    assert "| moods " in moods and "| moods test " in moods and "tags" not in moods
    assert "on tags.jsonl" in tags and "*published*" not in text and "F1, mean over the classes" in moods
    assert "2 classes" not in capsys.readouterr().out


def test_a_plan_s_command_names_the_data(trained, capsys):
    of = [
        "--data",
        str(trained / "moods.jsonl"),
        "--text",
        "say",
        "--label",
        "y",
        "--split_seed",
        "1",
        "--seeds",
        "0,1",
    ]
    assert command(trained, *of, "--plan") == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python")]
    assert len(commands) == 2 and all(
        "--split_seed 1" in line and "moods.jsonl --text say" in line for line in commands
    )
    of[of.index("--split_seed") + 1] = "0"
    assert command(trained, *of, "--metric", "f1,accuracy", "--test", str(trained / "t.jsonl"), "--plan") == 0
    assert "2 runs, 2 done before" in capsys.readouterr().out


def test_a_plan_knows_the_labels(trained, capsys):
    """What the run would refuse: a metric that is none of its kind of label."""
    of = ["--data", str(trained / "moods.jsonl"), "--text", "say", "--label", "y", "--plan", "--metric"]
    assert command(trained, *of, "pearson") == 2
    assert capsys.readouterr().err.startswith("error: --metric pearson: ")
    assert command(trained, *of, "f1") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name your data: --data my.csv --text COLUMN --label COLUMN"),
        (["--data"], "--data needs a value|expected one argument"),
        (["--benchmark"], "--benchmark needs a value"),
        (["--data", "nowhere.csv"], "--data nowhere.csv: there is no such file or folder"),
        (["--data", "x.csv", "--benchmark", "glue"], "--data x.csv is own data and --benchmark glue has its own"),
        (["--benchmark", "gleu"], "unknown benchmark 'gleu'; did you mean glue?"),
        (["--benchmark", "nowhere.py:X"], "cannot load benchmark 'nowhere.py:X'"),
        (["--benchmark", "json:JSONDecoder"], "'json:JSONDecoder' is no benchmark: it must be a subclass of"),
        (["--benchmark", "json:Nothing"], "json has no 'Nothing'; it has no benchmark"),
        (["--data", "x.csv", "--metric", "f2"], "metric must be a comma list of accuracy, f1"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, said):
    assert command(tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1


# ---- a benchmark of one's own ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Path:
    """The file of docs/data.md, in a folder of its own."""
    folder = tmp_path_factory.mktemp("notes")
    code = re.search(r"```python\n(# notes\.py.*?)```", (ROOT / "docs" / "data.md").read_text(), re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    (folder / "notes.py").write_text(code)
    return folder


def test_the_benchmark_of_the_docs_trains(notes, capsys):
    spec = f"{notes / 'notes.py'}:Notes"
    assert command(notes, "--benchmark", spec) == 0
    topic, urgency = sorted(results(notes), key=lambda run: run.task)
    assert (topic.benchmark, topic.task, topic.metric) == ("notes", "topic", "f1_macro")
    assert (urgency.task, urgency.metric) == ("urgency", "spearman") and topic.data["source"] == "code"
    printed = capsys.readouterr().out
    assert re.search(r"Topic +Urgency", printed) and "written:" in printed
    rebuild([notes / "results"], plots=False)  # its tables need no code
    assert "| topic " in (notes / "results" / "tables" / "notes.md").read_text()


def test_its_help_and_its_identity(notes, capsys):
    spec = f"{notes / 'notes.py'}:Notes"
    assert train.main(["--benchmark", spec, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Notes of a workshop" in out and "--tasks TASKS" in out and "topic, urgency" in " ".join(out.split())
    own = benchmark(spec)
    assert own.spec == spec and own.given == {"benchmark": spec} and own.code and benchmark("glue").code is None
    assert own is benchmark(spec) and own.configs.name == "custom"


def test_an_entry_point_is_a_name(notes, monkeypatch):
    from importlib.metadata import EntryPoint

    from modules.benchmarks import outside

    own = outside.names()
    point = EntryPoint("workshop", f"{notes / 'notes.py'}:Notes", outside.ENTRY_POINTS)
    monkeypatch.setattr(outside, "entry_points", lambda group: [point] if group == outside.ENTRY_POINTS else [])
    assert outside.names() == [*own, "workshop"] and "custom" in own and "workshop" not in own
    assert benchmark("workshop").title == "Workshop notes" and benchmark("workshop").spec == "workshop"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name, title = "notes"', 'name, title = "glue"', "the name 'glue' is taken or no name"),
        ('name="topic"', 'name="My-Topic"', "the task 'My-Topic': names are of lower-case letters"),
        ('"accuracy")', '"bleu")', "Topic: a task of this kind has no metric 'bleu'"),
        ("TOPICS = (", "TOPICS = (1 / 0,", r"notes\.py:4: ZeroDivisionError"),
        ("list(TOPICS) * len(days)", '["wheel"] * 3 * len(days)', "row 1: the label 'wheel' is none of engine"),
        ("Split(texts,", "Split(texts[1:],", "119 rows of texts and 120 labels"),
        ('(f"day {day}: {SAID[topic]}",)', '("a", "b")', "row 1 must have a text for note"),
        (
            '("validation", range(40, 60))',
            '("dev", range(40, 60))',
            "rows gives no split 'validation', only train, dev",
        ),
    ],
)
def test_mistakes_in_a_benchmark_are_one_line(notes, tmp_path, capsys, old, new, said):
    text = (notes / "notes.py").read_text()
    assert old in text
    (tmp_path / "notes.py").write_text(text.replace(old, new))
    assert command(tmp_path, "--benchmark", f"{tmp_path / 'notes.py'}:Notes", "--plan") == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1
